//! What a plan has decided so far, and the order in which it is carried out.

use jiff::Timestamp;

use crate::action::Action;

/// What is decided so far, by kind.
#[derive(Default)]
pub(crate) struct Decisions {
    pub directives: Vec<Action>,
    pub drops: Vec<Action>,
    pub marks: Vec<Action>,
    pub holds: Vec<Action>,
    pub give_ups: Vec<Action>,
    pub allocations: Vec<Action>,
    pub releases: Vec<Action>,
    pub farewells: Vec<Action>,
    pub requests: Vec<Action>,
    /// Future instants at which this plan would be another one.
    pub instants: Option<Timestamp>,
}

impl Decisions {
    /// What is done before the report is stored, and what after. Directives and drops come first: they free what
    /// allocations take. Farewells come before requests: they make room under the engine's own count.
    pub(crate) fn into_actions(self) -> (Vec<Action>, Vec<Action>) {
        let Self {
            directives,
            drops,
            marks,
            holds,
            give_ups,
            allocations,
            releases,
            farewells,
            requests,
            instants: _,
        } = self;
        let before = [directives, drops, marks, holds, give_ups, allocations, releases].concat();
        (before, [farewells, requests].concat())
    }
}
