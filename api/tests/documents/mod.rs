//! What stands in pages. Also for the tests on a real control plane.

/// The text between "```yaml" and "```", with its first line's number.
pub fn yaml_blocks(text: &str) -> Vec<(usize, String)> {
    let (mut blocks, mut open): (Vec<(usize, String)>, bool) = (Vec::new(), false);
    for (at, line) in text.lines().enumerate() {
        match (open, line.trim()) {
            (false, "```yaml") => {
                open = true;
                blocks.push((at + 2, String::new()));
            }
            (true, "```") => open = false,
            (true, _) => {
                let block = &mut blocks.last_mut().expect("a block was begun").1;
                block.push_str(line);
                block.push('\n');
            }
            (false, _) => {}
        }
    }
    assert!(!open, "a block of YAML has no end");
    blocks
}
