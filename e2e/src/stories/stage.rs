//! Where stories play: a control plane with trainyard installed, and its operators.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

use crate::controlplane::{ControlPlane, Mark, Options, Refusal, Refusals};
use crate::installation::{OPERATOR, Operator, install};
use crate::rights::Right;

/// A control plane, its operators by index, and what its cloud refuses. The operators are dropped first.
pub struct Stage {
    operators: tokio::sync::Mutex<BTreeMap<u16, Operator>>,
    /// The control plane.
    pub plane: ControlPlane,
    refusals: Mutex<BTreeMap<String, Refusal>>,
    /// Up to where the audit log was read for what the operator may not do.
    read_to: Mutex<Option<Mark>>,
}

impl Stage {
    /// Starts all of it, with one operator, that of index 0.
    pub async fn build() -> Result<Self> {
        let plane = ControlPlane::start(Options::default()).await?;
        install(&plane).await?;
        let operators = BTreeMap::from([(0, Operator::start(&plane, 0).await?)]);
        Ok(Self { operators: operators.into(), plane, refusals: Mutex::default(), read_to: Mutex::default() })
    }

    /// Starts the operator with that index (0 to 3), in place of one that ran under it.
    pub async fn start_operator(&self, index: u16) -> Result<()> {
        let mut operators = self.operators.lock().await;
        drop(operators.remove(&index));
        operators.insert(index, Operator::start(&self.plane, index).await?);
        Ok(())
    }

    /// `kill -9`.
    pub async fn kill_operator(&self, index: u16) -> Result<()> {
        let operator = self.operators.lock().await.remove(&index);
        operator.with_context(|| format!("operator {index} does not run"))?.process().kill()
    }

    /// Has the cloud refuse what `rule` says, from the next launch on until the returned value goes.
    pub fn cloud_refuses(&self, rule: Refusal) -> Result<Refusing<'_>> {
        let id = rule.id.clone();
        self.change_refusals(|rules| drop(rules.insert(rule.id.clone(), rule)))?;
        Ok(Refusing { stage: self, id })
    }

    /// For a story that has taken a right from the operator: what was refused until now was to be refused.
    pub async fn refusals_so_far_were_meant(&self) -> Result<()> {
        let now = self.plane.audit_mark().await?;
        *self.read_to.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        Ok(())
    }

    /// Fails when the operator has asked for something that it has no right to, since this was asked last. A control plane
    /// that is not ours has no log to read.
    pub(super) fn nothing_was_forbidden(&self) -> Result<()> {
        let Ok(log) = self.plane.audit_log() else { return Ok(()) };
        let mut read_to = self.read_to.lock().unwrap_or_else(PoisonError::into_inner);
        let (from, to) = (read_to.unwrap_or_else(|| log.start()), log.mark()?);
        let forbidden = log.forbidden_since(from)?;
        *read_to = Some(to);
        let ours = forbidden.iter().filter(|event| event.user == OPERATOR);
        let tried: BTreeSet<String> = ours
            .map(|event| {
                let right = Right::new(&event.group, &event.resource, &event.verb);
                format!("{right} ({}/{})", event.namespace, event.name)
            })
            .collect();
        ensure!(tried.is_empty(), "the chart's roles do not let the operator do what it tries: {tried:#?}");
        Ok(())
    }

    /// The control plane takes one set of rules; each story adds its own.
    fn change_refusals(&self, edit: impl FnOnce(&mut BTreeMap<String, Refusal>)) -> Result<()> {
        let mut rules = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        edit(&mut rules);
        let refuse = rules.values().cloned().collect();
        self.plane.set_refusals(&Refusals { refuse, ..Refusals::default() })
    }
}

/// While it lives, the cloud refuses as its rule says.
#[must_use]
pub struct Refusing<'a> {
    stage: &'a Stage,
    id: String,
}

impl Refusing<'_> {
    /// The cloud has machines again.
    pub fn ends(self) {}
}

impl Drop for Refusing<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.stage.change_refusals(|rules| drop(rules.remove(&self.id))) {
            eprintln!("the refusal {} could not be taken back: {error:#}", self.id);
        }
    }
}
