//! The processes of an attempt with their pods, and what status says of them.
//!
//! All of them are made, released and stopped alike. What they do decides the attempt, but for the evaluator: nobody waits
//! for it, and its failure is told once and changes nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use trainyard_api::distribution::RoleName;
use trainyard_api::run_status::{Attempt, RoleStatus};
use trainyard_model::run::{Process, ValidRun};

use super::Case;
use super::draft::Draft;
use super::verdict::{self, Members};
use crate::controllers::run::facts::{PodFacts, Progress};
use crate::controllers::run::report::Notice;

/// The processes of the attempt with their pods. Only a pod that has the expected name, is owned by this Run and carries its
/// label counts.
pub fn of<'a>(case: &Case<'a>, run: &ValidRun, attempt: i32) -> Vec<(Process, Option<&'a PodFacts>)> {
    let pods = case.own.iter().copied().filter(|pod| pod.attempt == Some(attempt));
    let owned: BTreeMap<&str, &PodFacts> = pods
        .filter(|pod| pod.labelled && pod.owner_uid.as_deref() == Some(case.uid))
        .map(|pod| (pod.seen.name.as_str(), pod))
        .collect();
    run.layout
        .processes()
        .iter()
        .map(|process| (*process, owned.get(run.pod_name(*process, attempt).as_str()).copied()))
        .collect()
}

/// Those without which the attempt cannot go on.
pub fn essential<'a>(members: &Members<'a>) -> Vec<(Process, Option<&'a PodFacts>)> {
    members.iter().filter(|(process, _)| process.is_essential()).copied().collect()
}

/// When the last of all processes had ended, the evaluator's included. `None` while one of them runs as far as is known, and where
/// no kubelet says when one ended: its pod is gone, or failed as a whole.
pub fn all_ended_at(members: &Members<'_>) -> Option<Timestamp> {
    let ended: Option<Vec<_>> = members.iter().map(|(_, pod)| (*pod)?.progress.exited_at()).collect();
    ended?.into_iter().max()
}

/// What became of the evaluator of a launched attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evaluation {
    /// Whether it has failed. Once stored it is not looked at again.
    pub has_failed: bool,
    /// Its failure, if nobody has been told of it.
    news: Option<String>,
}

impl Evaluation {
    /// What is seen of it, and what is stored.
    pub fn of(
        case: &Case<'_>,
        draft: &Draft,
        run: &ValidRun,
        attempt: i32,
        launched: Timestamp,
        members: &Members<'_>,
    ) -> Self {
        let stored = draft.status.roles.iter().find(|role| role.name == RoleName::Evaluator);
        if stored.is_some_and(|role| role.failed > 0) {
            return Self { has_failed: true, news: None };
        }
        let evaluator: Vec<_> =
            members.iter().filter(|(process, _)| process.role == RoleName::Evaluator).copied().collect();
        let end = verdict::of_evaluator(case, run, attempt, launched, &evaluator);
        Self { has_failed: end.is_some(), news: end.map(|end| end.message) }
    }

    /// Whether there is something to tell.
    pub fn is_news(&self) -> bool {
        self.news.is_some()
    }

    /// Tells of its failure, together with a status that says that it was told: see [`roles`].
    pub fn tell(self, draft: &mut Draft, attempt: &Attempt) {
        draft.notices.extend(self.news.map(|news| Notice::evaluator_failed(attempt.number, &news)));
    }
}

/// Processes by role. Written together with something else, never for themselves, but for the failure of an evaluator.
pub fn roles(run: &ValidRun, members: &Members<'_>, evaluator_has_failed: bool) -> Vec<RoleStatus> {
    let count = |role: RoleName, of: fn(&Progress) -> bool| {
        let pods = members.iter().filter(|(process, _)| process.role == role).filter_map(|(_, pod)| *pod);
        pods.filter(|pod| of(&pod.progress)).count() as i32
    };
    run.roles
        .iter()
        .map(|role| {
            let desired = role.count as i32;
            if role.name == RoleName::Evaluator && evaluator_has_failed {
                return RoleStatus { name: role.name, desired, active: 0, succeeded: 0, failed: desired };
            }
            RoleStatus {
                name: role.name,
                desired,
                active: count(role.name, |progress| matches!(progress, Progress::Running { .. })),
                succeeded: count(role.name, |progress| matches!(progress, Progress::Exited { code: 0, .. })),
                failed: count(role.name, |progress| {
                    matches!(progress, Progress::Broken { .. })
                        || matches!(progress, Progress::Exited { code, .. } if *code != 0)
                }),
            }
        })
        .collect()
}
