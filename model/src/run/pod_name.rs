//! What the name of a run's pod says.
//!
//! A pod's labels and owner can be changed by whoever may write the pod; its name cannot. So what a pod is, is read from its
//! name. Names are made by [`ValidRun::pod_name`](super::ValidRun::pod_name): `<run>-<role>-<index>`, with `-a<attempt>`
//! after it from the second attempt on.

use trainyard_api::distribution::RoleName;

/// The parts of a pod's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodName<'a> {
    /// Name of the Run.
    pub run: &'a str,
    /// The process's role.
    pub role: RoleName,
    /// Its index in the role, from 0.
    pub index: usize,
    /// The attempt, from 1.
    pub attempt: i32,
}

impl<'a> PodName<'a> {
    /// Reads a name; `None` for one that no run's pod has. There is one way only to read a name: one of a first attempt
    /// ends in a role and a number, one of a later attempt never does.
    pub fn parse(name: &'a str) -> Option<Self> {
        let (host, attempt) = match name.rsplit_once("-a") {
            Some((host, number)) if is_number(number) => (host, number.parse().ok().filter(|one| *one > 1)?),
            _ => (name, 1),
        };
        let (rest, index) = host.rsplit_once('-').filter(|(_, index)| is_number(index))?;
        let (run, role) = rest.rsplit_once('-').filter(|(run, _)| !run.is_empty())?;
        let role = RoleName::ALL.iter().copied().find(|one| one.as_str() == role)?;
        Some(Self { run, role, index: index.parse().ok()?, attempt })
    }
}

/// As it is written, without sign and leading zero.
fn is_number(text: &str) -> bool {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits && (text == "0" || !text.starts_with('0'))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("r1-worker-0", "r1", "worker", 0, 1)]
    #[case("r1-ps-12", "r1", "ps", 12, 1)]
    #[case("r1-chief-0-a2", "r1", "chief", 0, 2)]
    #[case("r1-evaluator-0", "r1", "evaluator", 0, 1)]
    #[case("my-run-worker-3-a17", "my-run", "worker", 3, 17)]
    #[case::a_run_named_like_a_pod("x-worker-0-worker-0", "x-worker-0", "worker", 0, 1)]
    #[case::a_run_named_like_a_pod_of_a_later_attempt(
        "x-worker-0-a2-worker-1",
        "x-worker-0-a2",
        "worker",
        1,
        1
    )]
    #[case::such_a_run_in_its_third_attempt("x-worker-0-a2-worker-1-a3", "x-worker-0-a2", "worker", 1, 3)]
    fn a_name_says_what_the_pod_is(
        #[case] name: &str,
        #[case] run: &str,
        #[case] role: &str,
        #[case] index: usize,
        #[case] attempt: i32,
    ) {
        let parsed = PodName::parse(name).expect("a pod's name");
        assert_eq!(
            (parsed.run, parsed.role.as_str(), parsed.index, parsed.attempt),
            (run, role, index, attempt)
        );
        let made = format!("{run}-{role}-{index}");
        assert_eq!(if attempt == 1 { made } else { format!("{made}-a{attempt}") }, name);
    }

    #[rstest]
    #[case("r1")]
    #[case("worker-0")]
    #[case("-worker-0")]
    #[case("r1-worker")]
    #[case("r1-worker-x")]
    #[case("r1-worker-00")]
    #[case("r1-worker-0-a1")]
    #[case("r1-worker-0-a02")]
    #[case("r1-worker-0-a99999999999")]
    #[case("r1-launcher-0")]
    #[case("r1-worker--1")]
    fn other_names_say_nothing(#[case] name: &str) {
        assert_eq!(PodName::parse(name), None);
    }
}
