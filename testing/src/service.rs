//! The server as a `tower` service, one request at a time through faults, gates and the store.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    Request, Response,
    header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, USER_AGENT},
    request::Parts,
};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde_json::{Value, json};
use tower::{BoxError, Service};

use crate::{
    fault::{Fault, Record, Verb, When},
    patch::PatchBody,
    path::Target,
    read::{View, watch},
    refusal::Refusal,
    server::FakeServer,
    store::Store,
};

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// One client's way to a [`FakeServer`].
#[derive(Clone, Debug)]
pub struct FakeService {
    server: FakeServer,
    agent: String,
}

impl FakeService {
    pub(crate) fn new(server: FakeServer, agent: String) -> Self {
        Self { server, agent }
    }
}

impl Service<Request<Body>> for FakeService {
    type Response = Answer;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { service.answer(request).await })
    }
}

impl FakeService {
    async fn answer(self, request: Request<Body>) -> Result<Answer, BoxError> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await?;
        let target = match Target::parse(&Request::from_parts(parts.clone(), ())) {
            Ok(target) => target,
            Err(refusal) => return refused(&refusal),
        };
        let agent = self.agent_of(&parts);
        let course = self.server.meet(Record::of(&target, agent.clone()));
        course.wait(When::Before).await;
        match &course.fault {
            Some(Fault::Hang) => std::future::pending::<()>().await,
            Some(Fault::Cut(When::Before)) => {
                return Err("connection reset before the request was read".into());
            }
            Some(fault) => {
                if let Some(refusal) = fault.refusal(&target) {
                    return refused(&refusal);
                }
            }
            None => {}
        }
        let answer = self.act(&target, &parts, &body, &agent);
        course.wait(When::After).await;
        if course.fault == Some(Fault::Cut(When::After)) {
            return Err("connection reset before the answer was sent".into());
        }
        answer
    }

    fn agent_of(&self, parts: &Parts) -> String {
        let header = parts.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if self.agent.is_empty() { header.to_owned() } else { self.agent.clone() }
    }

    fn act(&self, target: &Target, parts: &Parts, body: &[u8], agent: &str) -> Result<Answer, BoxError> {
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let view = View::of_accept(header(ACCEPT));
        if target.verb == Verb::Watch {
            return match watch(&self.server, target, view) {
                Ok(lines) => Ok(Response::new(StreamBody::new(lines).boxed_unsync())),
                Err(refusal) => refused(&refusal),
            };
        }
        let result =
            self.server.change(|store| decide(store, target, view, header(CONTENT_TYPE), body, agent));
        match result {
            Ok((code, value)) => whole(code, &value),
            Err(refusal) => refused(&refusal),
        }
    }
}

/// Everything but a watch: what the store is asked, and how it answers.
fn decide(
    store: &mut Store,
    target: &Target,
    view: View,
    content_type: &str,
    body: &[u8],
    agent: &str,
) -> Result<(u16, Value), Refusal> {
    let name = target.name.as_deref().unwrap_or_default();
    let manager = target
        .parameter("fieldManager")
        .unwrap_or_else(|| agent.split('/').next().filter(|agent| !agent.is_empty()).unwrap_or("unknown"));
    let json = || -> Result<Value, Refusal> {
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(body)
            .map_err(|error| Refusal::bad_request(format!("cannot decode the body: {error}")))
    };
    match target.verb {
        Verb::Get => store.get(target, name, view).map(|object| (200, object)),
        Verb::List => store.list(target, view).map(|list| (200, list)),
        Verb::Create => store.create(target, json()?, manager).map(|object| (201, object)),
        Verb::Update => store.replace(target, name, json()?, manager).map(|object| (200, object)),
        Verb::Patch => {
            let patch = PatchBody::parse(content_type, body)?;
            let (object, is_new) = store.patch(target, name, patch, manager)?;
            Ok((if is_new { 201 } else { 200 }, view.show(&object)))
        }
        Verb::Delete => store.delete(target, name, &json()?).map(|object| (200, object)),
        Verb::DeleteCollection => {
            let list = store.list(target, View::Whole)?;
            for object in list["items"].as_array().into_iter().flatten() {
                let mut one = target.clone();
                object["metadata"]["namespace"].as_str().unwrap_or_default().clone_into(&mut one.namespace);
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                store.delete(&one, name, &json()?)?;
            }
            Ok((200, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})))
        }
        Verb::Watch => Err(Refusal::method_not_allowed()),
    }
}

fn whole(code: u16, value: &Value) -> Result<Answer, BoxError> {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {}).boxed_unsync();
    Ok(Response::builder().status(code).header(CONTENT_TYPE, "application/json").body(body)?)
}

fn refused(refusal: &Refusal) -> Result<Answer, BoxError> {
    let mut answer = whole(refusal.code, &refusal.status())?;
    if let Some(wait) = refusal.retry_after {
        answer.headers_mut().insert(RETRY_AFTER, wait.as_secs().into());
    }
    Ok(answer)
}
