#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use anyhow::Result;
use trainyard_api::placement::NodeClassRef;

use super::*;
use crate::{
    clock::TokioClock,
    provisioner::{
        Refusal, RefusalCode,
        conformance::{self, World},
    },
};

struct Bed {
    engine: Arc<Memory>,
}

#[async_trait]
impl World for Bed {
    fn engine(&self) -> Arc<dyn Provisioner> {
        Arc::clone(&self.engine) as Arc<dyn Provisioner>
    }

    async fn restarted(&self) -> Result<Arc<dyn Provisioner>> {
        // Its machines are all it has; nothing else is remembered.
        Ok(self.engine())
    }

    fn block(&self, _: &Pool) -> Engine {
        let name = "default".into();
        conformance::karpenter_block(NodeClassRef { group: "memory".into(), kind: "Class".into(), name })
    }

    async fn refuse(&self, _: &Pool, cause: Option<(GivenUp, &str)>) -> Result<String> {
        self.engine.refuse(cause.map(|(cause, words)| (cause, words.to_owned())));
        Ok(cause.map(|(_, words)| words.to_owned()).unwrap_or_default())
    }

    async fn remove_behind(&self, machine: &Machine) -> Result<()> {
        assert!(self.engine.vanish(&machine.name));
        Ok(())
    }

    async fn take_name(&self, name: &str) -> Result<String> {
        let stranger = Pool { namespace: "x".into(), name: "x".into(), uid: "somebody".into() };
        self.engine.appear(&stranger, name, None);
        Ok(self.engine.machine(name).unwrap().uid)
    }

    async fn stands(&self, name: &str, uid: &str) -> Result<bool> {
        let machine = self.engine.machine(name);
        Ok(machine.is_some_and(|machine| machine.uid == uid && machine.deleting_since.is_none()))
    }

    async fn occupy(&self, _: &Machine) -> Result<()> {
        self.engine.hang_drains(true);
        Ok(())
    }

    async fn lose(&self, machine: &Machine) -> Result<()> {
        let is_there = self.engine.change(&machine.name, |machine| {
            machine.node.as_mut().unwrap().ready = false;
        });
        assert!(is_there);
        Ok(())
    }

    async fn break_class(&self, _: &Pool, broken: bool) -> Result<String> {
        self.engine.set_validity(if broken {
            Validity::Refused(Refusal {
                code: RefusalCode::ClassNotFound,
                message: "no class default".into(),
            })
        } else {
            Validity::Usable
        });
        Ok("default".to_owned())
    }
}

#[tokio::test(start_paused = true)]
async fn the_engine_in_memory_keeps_every_promise_of_an_engine() {
    let engine = Arc::new(Memory::new(Arc::new(TokioClock::default())));
    conformance::run(&Bed { engine }).await.unwrap();
}
