//! `tally`: `cargo test`, and an error when anything was skipped. Shows cargo's output as it comes, and one line more.

use std::io::{Read as _, Write as _, stdout};
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Parser;
use trainyard_e2e::tally::expected::{self, Packages};
use trainyard_e2e::tally::{Tally, output};

/// Runs the tests of the workspace. Exits as cargo does when that fails, and with 1 when anything was skipped.
#[derive(Parser)]
struct Arguments {
    /// Only this package; may be given several times.
    #[arg(long, short, conflicts_with = "exclude")]
    package: Vec<String>,
    /// All but this package; may be given several times.
    #[arg(long)]
    exclude: Vec<String>,
    /// The cargo to run.
    #[arg(long, env = "CARGO", default_value = "cargo")]
    cargo: String,
}

fn main() -> Result<ExitCode> {
    let Arguments { package, exclude, cargo } = Arguments::parse();
    let packages = Packages { only: package, without: exclude };
    let expected = expected::read(&cargo, &packages)?;
    let mut command = Command::new(&cargo);
    command.arg("test").args(packages.arguments()).env("CARGO_TERM_COLOR", "never");
    let (said, code) = run(command)?;
    let tally = Tally::of(&output::read(&said), &expected);
    if code != 0 {
        // Targets after the first failure do not run; that is no news.
        println!("\n{tally}; cargo test ended with {code}");
        return Ok(ExitCode::from(code));
    }
    for fault in tally.faults() {
        println!("skipped: {fault}");
    }
    println!("\n{tally}");
    Ok(if tally.faults().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a command, passes on what it prints, and returns that with its exit code. Both outputs go through one pipe: which
/// target a count belongs to is known from their order only.
fn run(mut command: Command) -> Result<(String, u8)> {
    let (mut reader, writer) = std::io::pipe()?;
    let mut child = command.stdout(writer.try_clone()?).stderr(writer).spawn()?;
    // It holds the writing ends, and the pipe would never end.
    drop(command);
    let (mut said, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        let count = reader.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        stdout().write_all(&chunk[..count])?;
        stdout().flush()?;
        said.extend_from_slice(&chunk[..count]);
    }
    let status = child.wait()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok((String::from_utf8_lossy(&said).into_owned(), code))
}
