//! Deletion: preconditions, finalizers, and pods that take time to stop.

use serde_json::{Value, json};

use crate::{
    path::{ObjectId, Target},
    refusal::Refusal,
    store::Store,
    value::{finalizers, meta, meta_str, set_meta},
};

impl Store {
    pub fn delete(&mut self, target: &Target, name: &str, options: &Value) -> Result<Value, Refusal> {
        let id = target.id(name);
        let plural = &id.of.plural;
        let Some(object) = self.objects.get(&id) else { return Err(Refusal::not_found(plural, name)) };
        for (precondition, field) in [("uid", "uid"), ("resourceVersion", "resourceVersion")] {
            let wanted = options["preconditions"][precondition].as_str();
            if wanted.is_some_and(|wanted| wanted != meta_str(object, field)) {
                let found = meta_str(object, field);
                let why = format!("Precondition failed: {field} in precondition does not match {found}");
                return Err(Refusal::conflict(plural, name, &why));
            }
        }
        let is_rehearsal =
            target.flag("dryRun") || options["dryRun"].as_array().is_some_and(|list| !list.is_empty());
        if is_rehearsal {
            return Ok(object.clone());
        }
        let grace = self.grace_of(&id, options);
        Ok(self.begin_deletion(&id, grace).unwrap_or(Value::Null))
    }

    /// How long the object may take: only pods bound to a node and not finished take time, and only if asked for.
    fn grace_of(&self, id: &ObjectId, options: &Value) -> u64 {
        let Some(object) = self.objects.get(id) else { return 0 };
        let is_pod = id.of.group.is_empty() && id.of.plural == "pods";
        let is_finished = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let is_bound = object["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
        if !self.graceful_pods || !is_pod || is_finished || !is_bound {
            return 0;
        }
        let default = object["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
        options["gracePeriodSeconds"].as_u64().unwrap_or(default)
    }

    /// Marks the object as being deleted, or removes it if nothing holds it. Returns what the answer shows.
    pub fn begin_deletion(&mut self, id: &ObjectId, grace: u64) -> Option<Value> {
        let object = self.objects.get(id)?;
        let was_marked = !meta(object, "deletionTimestamp").is_null();
        if finalizers(object).is_empty() && grace == 0 {
            return self.remove(id);
        }
        let marked_grace = meta(object, "deletionGracePeriodSeconds").as_u64();
        if was_marked && marked_grace.is_some_and(|marked| marked <= grace) {
            return Some(object.clone());
        }
        let mut object = object.clone();
        if !was_marked {
            let until = jiff::SignedDuration::from_secs(grace as i64);
            let time = (self.now)() + until;
            let time = jiff::Timestamp::from_second(time.as_second()).unwrap_or(time);
            set_meta(&mut object, "deletionTimestamp", Some(json!(time.to_string())));
            if let Some(generation) = meta(&object, "generation").as_i64() {
                set_meta(&mut object, "generation", Some(json!(generation + 1)));
            }
        }
        set_meta(&mut object, "deletionGracePeriodSeconds", Some(json!(grace)));
        Some(self.commit(id.clone(), object))
    }

    /// Whether an object that was just written is now free to go.
    pub fn is_released(object: &Value) -> bool {
        !meta(object, "deletionTimestamp").is_null()
            && finalizers(object).is_empty()
            && meta(object, "deletionGracePeriodSeconds").as_u64().unwrap_or(0) == 0
    }
}
