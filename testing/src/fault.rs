//! Faults and gates: what a test does to requests on their way.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::sync::Notify;

use crate::{path::Target, refusal::Refusal};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read many objects.
    List,
    /// Follow many objects.
    Watch,
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH, server-side apply included.
    Patch,
    /// DELETE of one object.
    Delete,
    /// DELETE of many objects.
    DeleteCollection,
}

impl Verb {
    /// Whether the request changes anything.
    pub fn is_write(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

/// Whether something happens before the server acts on a request or after, with the answer still to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The server has not acted.
    Before,
    /// The server has acted, and the caller does not know it.
    After,
}

/// Which requests a fault, a gate or a count is about. Every condition given must hold.
#[derive(Clone, Debug, Default)]
pub struct Matching {
    verbs: BTreeSet<Verb>,
    writes: bool,
    resource: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    agent: Option<String>,
    rehearsal: Option<bool>,
    manager: Option<String>,
}

impl Matching {
    /// All requests.
    pub fn any() -> Self {
        Self::default()
    }

    /// Requests that change something.
    pub fn writes() -> Self {
        Self { writes: true, ..Self::default() }
    }

    /// Requests of this verb; several calls add up.
    #[must_use]
    pub fn verb(mut self, verb: Verb) -> Self {
        self.verbs.insert(verb);
        self
    }

    /// Requests to this type: its plural, with the subresource behind a slash (`pods`, `runs/status`).
    #[must_use]
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// Requests in this namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Requests for the object of this name (for a create, the name in its body is not looked at).
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Requests of the client with this user agent.
    #[must_use]
    pub fn agent(mut self, agent: impl Into<String>) -> Self {
        self.agent = Some(agent.into());
        self
    }

    /// Requests that are only rehearsed (`dryRun`), or only those that are not.
    #[must_use]
    pub fn rehearsal(mut self, is: bool) -> Self {
        self.rehearsal = Some(is);
        self
    }

    /// Requests of this field manager.
    #[must_use]
    pub fn manager(mut self, manager: impl Into<String>) -> Self {
        self.manager = Some(manager.into());
        self
    }

    pub(crate) fn matches(&self, record: &Record) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        (self.verbs.is_empty() || self.verbs.contains(&record.verb))
            && (!self.writes || record.verb.is_write())
            && is(&self.resource, &record.resource)
            && is(&self.namespace, &record.namespace)
            && is(&self.name, &record.name)
            && is(&self.agent, &record.agent)
            && is(&self.manager, &record.manager)
            && self.rehearsal.is_none_or(|wanted| wanted == record.rehearsal)
    }
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The connection breaks: no answer, and whether the server acted depends on when it broke.
    Cut(When),
    /// No answer, ever, and the server does not act.
    Hang,
    /// 409: somebody else was faster.
    Conflict,
    /// 403.
    Forbidden,
    /// 403 with this reason: a quota, a policy.
    ForbiddenBecause(String),
    /// 422 with this reason.
    Invalid(String),
    /// 429, with the time to wait.
    TooManyRequests(Duration),
    /// 500.
    InternalError,
    /// 500 with this reason, as when a webhook that must be asked does not answer.
    InternalErrorBecause(String),
    /// 410: the resourceVersion is too old.
    Expired,
}

impl Fault {
    pub(crate) fn refusal(&self, target: &Target) -> Option<Refusal> {
        let (plural, name) = (target.of.plural.as_str(), target.name.as_deref().unwrap_or_default());
        match self {
            Self::Cut(_) | Self::Hang => None,
            Self::Conflict => Some(Refusal::stale(plural, name)),
            Self::Forbidden => Some(Refusal::forbidden(plural, "injected fault")),
            Self::ForbiddenBecause(why) => Some(Refusal::forbidden(plural, why)),
            Self::Invalid(why) => Some(Refusal::invalid(plural, name, why)),
            Self::TooManyRequests(wait) => Some(Refusal::throttled(*wait)),
            Self::InternalError => Some(Refusal::internal("injected fault")),
            Self::InternalErrorBecause(why) => Some(Refusal::internal(why)),
            Self::Expired => Some(Refusal::expired()),
        }
    }
}

/// One request that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What was asked.
    pub verb: Verb,
    /// The type's plural, with the subresource behind a slash.
    pub resource: String,
    /// The namespace; empty for objects of the cluster and for requests over all namespaces.
    pub namespace: String,
    /// The object's name; empty for lists, watches and creates.
    pub name: String,
    /// The client's user agent.
    pub agent: String,
    /// The server is only asked what it would do (`dryRun` in the query).
    pub rehearsal: bool,
    /// The field manager of a write; empty where none is given.
    pub manager: String,
}

impl Record {
    pub(crate) fn of(target: &Target, agent: String) -> Self {
        Self {
            verb: target.verb,
            resource: target.resource(),
            namespace: target.namespace.clone(),
            name: target.name.clone().unwrap_or_default(),
            agent,
            rehearsal: target.flag("dryRun"),
            manager: target.parameter("fieldManager").unwrap_or_default().to_owned(),
        }
    }
}

#[derive(Debug, Default)]
struct GateState {
    reached: Notify,
    released: Notify,
}

/// Holds the first matching request until it is let go. Made by [`crate::FakeServer::pause`].
#[derive(Debug)]
pub struct Gate {
    state: Arc<GateState>,
}

impl Gate {
    /// Waits until a request stands at the gate.
    pub async fn reached(&self) {
        self.state.reached.notified().await;
    }

    /// Lets the request go on, now or when it comes.
    pub fn release(&self) {
        self.state.released.notify_one();
    }
}

struct Rule {
    on: Matching,
    fault: Fault,
    left: Option<usize>,
}

struct Pause {
    on: Matching,
    when: When,
    state: Arc<GateState>,
}

struct NthWrite {
    left: usize,
    when: When,
}

/// Everything a test has asked to happen, and all requests that arrived.
#[derive(Default)]
pub(crate) struct Faults {
    rules: Vec<Rule>,
    pauses: Vec<Pause>,
    nth_write: Option<NthWrite>,
    pub records: Vec<Record>,
}

/// What to do with one request.
#[derive(Default)]
pub(crate) struct Course {
    pub fault: Option<Fault>,
    before: Vec<Arc<GateState>>,
    after: Vec<Arc<GateState>>,
}

impl Course {
    pub async fn wait(&self, when: When) {
        let gates = if when == When::Before { &self.before } else { &self.after };
        for gate in gates {
            gate.reached.notify_one();
            gate.released.notified().await;
        }
    }
}

impl Faults {
    pub fn add_rule(&mut self, on: Matching, fault: Fault, times: Option<usize>) {
        self.rules.push(Rule { on, fault, left: times });
    }

    pub fn add_gate(&mut self, on: Matching, when: When) -> Gate {
        let state = Arc::new(GateState::default());
        self.pauses.push(Pause { on, when, state: Arc::clone(&state) });
        Gate { state }
    }

    pub fn fail_nth_write(&mut self, n: usize, when: When) {
        assert!(n > 0, "writes are counted from 1");
        self.nth_write = Some(NthWrite { left: n, when });
    }

    pub fn clear(&mut self) {
        self.rules.clear();
        self.nth_write = None;
    }

    /// Records a request and decides what happens to it. Each gate holds one request.
    pub fn meet(&mut self, record: Record) -> Course {
        let mut course = Course::default();
        self.pauses.retain(|pause| {
            let held = pause.on.matches(&record);
            if held {
                let gates = if pause.when == When::Before { &mut course.before } else { &mut course.after };
                gates.push(Arc::clone(&pause.state));
            }
            !held
        });
        if record.verb.is_write()
            && let Some(nth) = &mut self.nth_write
        {
            nth.left -= 1;
            if nth.left == 0 {
                course.fault = Some(Fault::Cut(nth.when));
                self.nth_write = None;
            }
        }
        if course.fault.is_none()
            && let Some(rule) =
                self.rules.iter_mut().find(|rule| rule.left != Some(0) && rule.on.matches(&record))
        {
            rule.left = rule.left.map(|left| left - 1);
            course.fault = Some(rule.fault.clone());
        }
        self.records.push(record);
        course
    }
}
