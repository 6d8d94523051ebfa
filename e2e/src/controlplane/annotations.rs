//! What a pod says to kwok about its life, by annotations. `e2e/controlplane/kwok-stages.yaml` reads them and documents
//! them; a role may be appended to the first two, as in `kwok.trainyard.dev/run-for.worker`.

/// From running to the end, as `3s`. Without it a pod runs until it is deleted.
pub const RUN_FOR: &str = "kwok.trainyard.dev/run-for";
/// Of the first container, default `0`; `1,0` is 1 for the first attempt of a Run and 0 for every later one.
pub const EXIT_CODE: &str = "kwok.trainyard.dev/exit-code";
/// Of the first container's end when the exit code is not 0, as `OOMKilled`.
pub const REASON: &str = "kwok.trainyard.dev/reason";
/// The pod does not start, and this is why, as `ErrImagePull`. It starts when the annotation goes.
pub const WAITING: &str = "kwok.trainyard.dev/waiting";
/// From bound to running, as `2s`.
pub const START_AFTER: &str = "kwok.trainyard.dev/start-after";
/// From deleted to gone, as `5s`.
pub const STOP_AFTER: &str = "kwok.trainyard.dev/stop-after";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn the_stages_read_these_annotations_and_no_others() {
        let stages = include_str!("../../controlplane/kwok-stages.yaml");
        let rules = stages.split_once("\napiVersion").expect("the file starts with a comment").1;
        let read: BTreeSet<String> = rules
            .split("kwok.trainyard.dev/")
            .skip(1)
            .map(|rest| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect())
            .map(|name: String| format!("kwok.trainyard.dev/{name}"))
            .collect();
        let declared = [
            super::RUN_FOR,
            super::EXIT_CODE,
            super::REASON,
            super::WAITING,
            super::START_AFTER,
            super::STOP_AFTER,
        ];
        assert_eq!(read, declared.map(str::to_owned).into());
    }
}
