//! Why a run waits, runs, does neither, or has ended.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use trainyard_api::Run;
use trainyard_api::conditions::{self, ConditionStatus, RunCondition};
use trainyard_api::run_status::{QueueReason, RunPhase, RunReason, RunStatus};
use trainyard_model::run::limits;
use trainyard_model::status::queue::wire_reason;
use trainyard_planner::{Action, ActiveRun, RunReport, Wait, WaitReason};

use super::{Known, advice, attempts, pool};
use crate::answer::{Answer, Place};
use crate::target::Kind;
use crate::words::{at, counted, length, listed, when};
use crate::world::Pool;

/// How long a Run may be without any status before that says something about the operator.
const LOOKED_AT_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// One run with what is known of it.
struct Case<'a> {
    run: &'a Run,
    status: RunStatus,
    /// `Run ml/mnist`.
    shown: String,
    /// `Cluster nc6`, with its namespace when that is another one.
    cluster: String,
    now: Timestamp,
}

/// The answer about a Run. `known` is absent when it has ended, and when not all of it may be read.
pub fn explain(run: &Run, known: Option<&Known<'_>>, now: Timestamp) -> Answer {
    let namespace = run.metadata.namespace.clone().unwrap_or_default();
    let name = run.metadata.name.clone().unwrap_or_default();
    let of = &run.spec.cluster_ref;
    let cluster = match of.namespace.as_ref().filter(|there| **there != namespace) {
        Some(there) => format!("Cluster {there}/{}", of.name),
        None => format!("Cluster {}", of.name),
    };
    let shown = format!("Run {namespace}/{name}");
    let case = Case { run, status: run.status.clone().unwrap_or_default(), shown, cluster, now };
    let mut answer = Answer::about(Kind::Run, &namespace, &name, now);
    let phase = case.status.phase.unwrap_or_default();
    answer.state = phase.to_string();
    answer.reason = case.status.reason.map(|reason| reason.to_string());
    answer.happened = attempts::history(run, &case.status);
    if phase.is_terminal() {
        case.has_ended(phase, &mut answer);
        return answer;
    }
    let uid = run.metadata.uid.as_deref().unwrap_or_default();
    let Some(known) = known else {
        case.as_written(phase, &mut answer);
        return answer;
    };
    for pool in known.pools {
        if let Some(active) = pool.snapshot.active.iter().find(|one| one.id.uid == uid) {
            case.is_active(phase, active, known, &mut answer);
            return answer;
        }
        if let Some(report) = pool.plan.report.runs.iter().find(|one| one.run.uid == uid) {
            case.waits(pool, report, known, &mut answer);
            return answer;
        }
        if let Some((attempt, nodes)) = pool.plan.all_actions().find_map(|action| start_of(action, uid)) {
            case.starts(attempt, &nodes, &mut answer);
            return answer;
        }
    }
    case.is_aside(phase, known, &mut answer);
    answer
}

fn start_of(action: &Action, uid: &str) -> Option<(i64, Vec<String>)> {
    match action {
        Action::Allocate { run, attempt, nodes, shares: _ } if run.uid == uid => {
            Some((*attempt, nodes.iter().map(|node| node.0.clone()).collect()))
        }
        _ => None,
    }
}

impl Case<'_> {
    fn message(&self) -> Option<&str> {
        self.status.message.as_deref().filter(|message| !message.is_empty())
    }

    /// `NotAccepted: the reason`.
    fn said(&self) -> Option<String> {
        let message = self.message()?;
        Some(match self.status.reason {
            Some(reason) => format!("{reason}: {message}"),
            None => message.to_owned(),
        })
    }

    fn has_ended(&self, phase: RunPhase, answer: &mut Answer) {
        let reason = self.status.reason.unwrap_or(RunReason::Unknown);
        let time = self.status.completion_time.as_ref().map(|time| time.0);
        let time = time.map(|time| format!(" {}", when(time, self.now))).unwrap_or_default();
        answer.summary = match phase {
            RunPhase::Completed => format!("{} has succeeded{time}.", self.shown),
            RunPhase::Canceled => format!("{} was cancelled by its user{time}.", self.shown),
            _ => format!("{} has failed for good{time}: {reason}, {}.", self.shown, blame(reason)),
        };
        answer.why.extend(self.message().map(ToOwned::to_owned));
        answer.what_you_can_do = advice::ended(reason, self.run);
    }

    /// It has nodes.
    fn is_active(&self, phase: RunPhase, active: &ActiveRun, known: &Known<'_>, answer: &mut Answer) {
        let nodes: Vec<String> = active
            .nodes
            .iter()
            .map(|name| {
                let machine = known.node(&name.0).and_then(|node| node.status.as_ref()?.node_name.as_ref());
                machine.map_or_else(|| name.0.clone(), |machine| format!("{name} (Node {machine})"))
            })
            .collect();
        answer.summary = format!(
            "{} is {phase}: attempt {} has {} of {}.",
            self.shown,
            active.attempt,
            counted(nodes.len() as i64, "node"),
            self.cluster
        );
        answer.why.extend(self.said());
        answer.why.push(format!("Its nodes are {}", listed(&nodes, 8)));
        if let Some(started) = active.started {
            let of_one = SignedDuration::from(self.run.spec.max_wall_clock_time);
            let of_all =
                limits::total_left(&self.run.spec, Some(&self.status)).filter(|left| *left <= of_one);
            let name = of_all.map_or("maxWallClockTime", |_| "what is left of maxTotalTime");
            let limit = of_all.unwrap_or(of_one);
            let ends = started.checked_add(limit).ok().map(|ends| when(ends, self.now));
            let by_user = of_all.is_some() || of_one != limits::DEFAULT_WALL_CLOCK;
            let whose = if by_user { "which its user wrote" } else { "the default" };
            answer.why.push(format!(
                "Launched {}; by {name} ({}, {whose}) it ends {} at the latest",
                when(started, self.now),
                length(limit),
                ends.unwrap_or_default()
            ));
        }
        let allocation = self.status.allocation.as_ref();
        if let Some(directive) = allocation.and_then(|allocation| allocation.directive.as_ref()) {
            answer.why.push(format!(
                "The Cluster has ordered to {} this attempt ({}){}",
                directive.kind.to_string().to_lowercase(),
                directive.reason,
                trainyard_api::text::because(&directive.message)
            ));
        }
        let (namespace, name) = (&answer.namespace, &answer.name);
        answer.what_you_can_do.push(match phase {
            RunPhase::Running => {
                format!("read its logs: kubectl logs -n {namespace} -l trainyard.dev/run={name} --prefix -f")
            }
            RunPhase::Finalizing | RunPhase::CancelRequested => "wait until its pods have stopped".to_owned(),
            _ => format!("see its pods: kubectl get pods -n {namespace} -l trainyard.dev/run={name}"),
        });
    }

    fn starts(&self, attempt: i64, nodes: &[String], answer: &mut Answer) {
        answer.state = "Starting".into();
        answer.summary = format!("{} starts now: attempt {attempt} on {}.", self.shown, listed(nodes, 8));
        answer.why.push(format!("All of its nodes in {} are ready and free", self.cluster));
        answer.what_you_can_do.push(
            "ask again in a few seconds; if the answer is the same for a minute, the operator does not run: tell an \
             administrator"
                .to_owned(),
        );
    }

    fn waits(&self, pool: &Pool, report: &RunReport, known: &Known<'_>, answer: &mut Answer) {
        let reports = &pool.plan.report.runs;
        let reason = wire_reason(report.reason());
        let queued = pool::queued(pool, &report.run.uid);
        let since = queued.map_or(self.now, |run| run.created);
        let place = Place {
            position: report.position,
            of: reports.len() as i64,
            estimated_start: report.estimated_start,
        };
        answer.state = "Waiting".into();
        answer.reason = Some(reason.to_string());
        answer.place = Some(place);
        answer.report = serde_json::to_value(report).unwrap_or(Value::Null);
        answer.summary = format!(
            "{} waits: position {} of {} in the queue of {}; it needs {} and was submitted {}.",
            self.shown,
            place.position,
            place.of,
            self.cluster,
            counted(i64::from(self.run.spec.node_count), "node"),
            when(since, self.now)
        );
        let why = &mut answer.why;
        why.push(format!("{reason}: {}", report.message()));
        why.extend(before(pool, report));
        if matches!(reason, QueueReason::NodesBusy | QueueReason::BehindOthers | QueueReason::Reserved) {
            why.extend(pool::tenants(&pool.snapshot.active));
        }
        why.extend(coming(pool, known));
        why.extend(pool::obstacles(pool, self.now).into_iter().filter(|said| !answer_has(report, said)));
        if pool.catalogue.is_ok() {
            why.push(pool::room(pool));
        }
        why.extend(pool::asking(pool));
        if let Some(since) = report.gang_since {
            let gives_up = queued.and_then(|run| since.checked_add(run.gang_timeout).ok());
            why.push(format!(
                "Machines are asked for on its behalf since {}; if they are not complete {} (gangTimeout), they are given \
                 back and it is passed over for a while",
                at(since),
                gives_up.map(|time| when(time, self.now)).unwrap_or_default()
            ));
        }
        if let Some(time) = queued.and_then(|run| run.give_up_at).filter(|time| *time > self.now) {
            why.push(format!(
                "If it has not started {}, it ends as Failed (queueDeadline)",
                when(time, self.now)
            ));
        }
        match report.estimated_start {
            Some(time) => why.push(format!("It starts {} at the latest", when(time, self.now))),
            None if matches!(
                reason,
                QueueReason::NodesBusy | QueueReason::BehindOthers | QueueReason::Reserved
            ) =>
            {
                why.push(
                    "When it starts is not known: only limits that users wrote tell when nodes are free"
                        .to_owned(),
                );
            }
            None => {}
        }
        let written = self.status.queue.as_ref().and_then(|queue| queue.reason);
        if let Some(written) = written.filter(|written| *written != reason) {
            let message =
                self.status.queue.as_ref().and_then(|queue| queue.message.clone()).unwrap_or_default();
            why.push(format!(
                "trainyard last wrote another reason into its status ({written}{}): what is above is newer, or rests on less \
                 than the operator may see",
                trainyard_api::text::because(&message)
            ));
        }
        why.extend(pool::next_look(pool, self.now));
        answer.what_you_can_do = advice::waiting(reason, self.run, enough(pool, report));
    }

    /// It neither waits nor has nodes.
    fn is_aside(&self, phase: RunPhase, known: &Known<'_>, answer: &mut Answer) {
        let created = self.run.metadata.creation_timestamp.as_ref().map_or(self.now, |time| time.0);
        let refused = conditions::find(&self.status.conditions, RunCondition::Accepted)
            .filter(|condition| condition.status == ConditionStatus::False);
        let shown = &self.shown;
        if self.run.metadata.deletion_timestamp.is_some() {
            answer.state = "Deleting".into();
            answer.summary = format!("{shown} is being deleted; it goes when none of its pods is left.");
            answer.what_you_can_do.push(format!(
                "see its pods: kubectl get pods -n {} -l trainyard.dev/run={}",
                answer.namespace, answer.name
            ));
        } else if self.run.status.is_none() {
            answer.state = "NotLookedAt".into();
            answer.summary = format!(
                "{shown} was submitted {}, and trainyard has not looked at it yet.",
                when(created, self.now)
            );
            if self.now.duration_since(created) > LOOKED_AT_WITHIN {
                answer.why.push(
                    "That takes a second as a rule, so the operator does not run, or cannot keep up"
                        .to_owned(),
                );
                answer.what_you_can_do.push(
                    "tell an administrator: kubectl get pods -n trainyard-system, the usual namespace of the operator"
                        .to_owned(),
                );
            }
        } else if let Some(condition) = refused {
            answer.summary =
                format!("{shown} is not in the queue: it is not accepted ({}).", condition.reason);
        } else if phase == RunPhase::Suspended {
            answer.summary = format!("{shown} is suspended by its user and keeps its place in the queue.");
        } else if self.status.reason == Some(RunReason::ClusterNotAllowed) {
            answer.summary = format!("{shown} may not use {}, or there is none.", self.cluster);
        } else if known.present().is_none() {
            answer.summary = format!("{shown} waits for {}, which is not there.", self.cluster);
        } else {
            answer.summary = format!("{shown} is {phase} and waits for no nodes.");
        }
        answer.why.extend(self.said());
        if let Some(condition) =
            refused.filter(|condition| self.message() != Some(condition.message.as_str()))
        {
            answer.why.push(format!("{}: {}", condition.reason, condition.message));
        }
        if let (Some(reason), true) = (self.status.reason, answer.what_you_can_do.is_empty()) {
            answer.what_you_can_do = advice::aside(reason, self.run);
        }
    }

    /// What the operator last wrote, when more may not be read.
    fn as_written(&self, phase: RunPhase, answer: &mut Answer) {
        let queue = self.status.queue.as_ref().filter(|_| phase == RunPhase::Queued);
        let Some(queue) = queue else {
            answer.summary = format!("{} is {phase}, on {}.", self.shown, self.cluster);
            answer.why.extend(self.said());
            if let Some(reason) = self.status.reason {
                answer.what_you_can_do = advice::aside(reason, self.run);
            }
            return;
        };
        answer.state = "Waiting".into();
        let position = queue.position.map(|position| format!(" at position {position}")).unwrap_or_default();
        answer.summary = format!("{} waits in the queue of {}{position}.", self.shown, self.cluster);
        if let Some(reason) = queue.reason {
            answer.reason = Some(reason.to_string());
            let message = queue.message.as_deref().unwrap_or_default();
            answer.why.push(format!("{reason}{}", trainyard_api::text::because(message)));
            answer.what_you_can_do = advice::waiting(reason, self.run, None);
        }
        let estimate = queue.estimated_start.as_ref();
        answer.why.extend(estimate.map(|time| format!("It starts {} at the latest", when(time.0, self.now))));
    }
}

/// A maximum with which it needs no other run's end.
fn enough(pool: &Pool, report: &RunReport) -> Option<i64> {
    match &report.wait {
        Wait::NodesBusy { needed, idle, .. } => Some(pool.snapshot.policy.max_nodes + needed - idle),
        Wait::ExceedsMaxNodes { needed, .. } => Some(*needed),
        _ => None,
    }
}

/// Whether the run's own sentence has the news already.
fn answer_has(report: &RunReport, said: &str) -> bool {
    report.reason() == WaitReason::GrowthBlocked && said.starts_with("The Cluster")
}

/// How many runs before it are told one by one.
const TOLD: usize = 3;

/// The runs that are served before it.
fn before(pool: &Pool, report: &RunReport) -> Vec<String> {
    let ahead = pool.plan.report.runs.iter().filter(|one| one.position < report.position);
    let mut said: Vec<String> = ahead
        .clone()
        .take(TOLD)
        .map(|one| {
            let place = pool::place(one, pool::queued(pool, &one.run.uid));
            format!("Before it is {place} {}: {}", wire_reason(one.reason()), one.message())
        })
        .collect();
    let more = ahead.count().saturating_sub(TOLD);
    if more > 0 {
        said.push(format!("And {} between these and it", counted(more as i64, "run")));
    }
    said
}

/// The nodes that are on their way, and how far they are.
fn coming(pool: &Pool, known: &Known<'_>) -> Vec<String> {
    let on_their_way = pool
        .plan
        .report
        .nodes
        .iter()
        .filter(|node| node.reason == trainyard_planner::NodeReason::Coming)
        .map(|node| super::node::progress(&node.node.0, known.node(&node.node.0)));
    let told: Vec<String> = on_their_way.collect();
    if told.is_empty() { Vec::new() } else { vec![format!("On their way: {}", listed(&told, 4))] }
}

/// Who or what made the Run fail, in a half sentence.
const fn blame(reason: RunReason) -> &'static str {
    match reason {
        RunReason::UserCode => "a process of the training failed and retries.user is used up",
        RunReason::Setup => "its pods could not be set up and retries.user is used up",
        RunReason::Infrastructure => "machines failed it more often than retries.infrastructure allows",
        RunReason::WallClock => "an attempt ran longer than maxWallClockTime",
        RunReason::TotalTime => "its attempts together ran longer than maxTotalTime",
        RunReason::QueueDeadline => "it waited longer than its queueDeadline",
        RunReason::ClusterDeleted => "its Cluster was deleted while it ran",
        RunReason::Deallocated => "maxNodes of its Cluster was lowered below what ran",
        _ => "for a reason that this version does not know",
    }
}
