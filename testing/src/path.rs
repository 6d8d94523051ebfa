//! What a request is about, from its method and URL.

use std::collections::BTreeMap;

use http::{Method, Request};

use crate::{fault::Verb, refusal::Refusal};

/// A type of objects: API group (empty for the core) and plural.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TypeId {
    pub group: String,
    pub plural: String,
}

/// One object. Namespace is empty for objects of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ObjectId {
    pub of: TypeId,
    pub namespace: String,
    pub name: String,
}

/// The parts of an object a request reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Main,
    Status,
}

#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub verb: Verb,
    pub of: TypeId,
    pub version: String,
    pub namespace: String,
    pub name: Option<String>,
    pub endpoint: Endpoint,
    pub query: BTreeMap<String, String>,
}

impl Target {
    pub fn parse<B>(request: &Request<B>) -> Result<Self, Refusal> {
        let unknown = || Refusal::not_found_path(request.uri().path());
        let segments: Vec<&str> = request.uri().path().split('/').filter(|part| !part.is_empty()).collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Err(unknown()),
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, inside @ ..] if !matches!(inside, [] | ["status" | "finalize"]) => {
                (*namespace, inside)
            }
            _ => ("", rest),
        };
        let (plural, name, endpoint) = match rest {
            [plural] => (*plural, None, Endpoint::Main),
            [plural, name] => (*plural, Some(*name), Endpoint::Main),
            [plural, name, "status"] => (*plural, Some(*name), Endpoint::Status),
            _ => return Err(unknown()),
        };
        let query = parse_query(request.uri().query().unwrap_or_default());
        let verb = match (request.method(), name) {
            (&Method::GET, None)
                if query.get("watch").is_some_and(|value| value == "true" || value == "1") =>
            {
                Verb::Watch
            }
            (&Method::GET, None) => Verb::List,
            (&Method::GET, Some(_)) => Verb::Get,
            (&Method::POST, None) => Verb::Create,
            (&Method::PUT, Some(_)) => Verb::Update,
            (&Method::PATCH, Some(_)) => Verb::Patch,
            (&Method::DELETE, Some(_)) => Verb::Delete,
            (&Method::DELETE, None) => Verb::DeleteCollection,
            _ => return Err(Refusal::method_not_allowed()),
        };
        Ok(Self {
            verb,
            of: TypeId { group: group.to_owned(), plural: plural.to_owned() },
            version: version.to_owned(),
            namespace: namespace.to_owned(),
            name: name.map(ToOwned::to_owned),
            endpoint,
            query,
        })
    }

    pub fn id(&self, name: &str) -> ObjectId {
        ObjectId { of: self.of.clone(), namespace: self.namespace.clone(), name: name.to_owned() }
    }

    /// The type's plural, with the subresource behind a slash.
    pub fn resource(&self) -> String {
        match self.endpoint {
            Endpoint::Main => self.of.plural.clone(),
            Endpoint::Status => format!("{}/status", self.of.plural),
        }
    }

    pub fn api_version(&self) -> String {
        if self.of.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.of.group, self.version)
        }
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub fn flag(&self, name: &str) -> bool {
        matches!(self.parameter(name), Some("true" | "1" | "All"))
    }
}

fn parse_query(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

/// Undoes `application/x-www-form-urlencoded`.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit =
                    || rest.next().and_then(|byte| char::from(byte).to_digit(16)).unwrap_or(0) as u8;
                digit() * 16 + digit()
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &str, uri: &str) -> Target {
        Target::parse(&Request::builder().method(method).uri(uri).body(()).expect("valid")).expect("known")
    }

    #[test]
    fn a_namespace_is_an_object_and_a_place() {
        let object = parse("GET", "/api/v1/namespaces/lab");
        assert_eq!((object.of.plural.as_str(), object.name.as_deref()), ("namespaces", Some("lab")));
        let place = parse("PATCH", "/apis/trainyard.dev/v1alpha1/namespaces/lab/runs/mnist/status");
        assert_eq!((place.namespace.as_str(), place.resource().as_str()), ("lab", "runs/status"));
        assert_eq!(place.api_version(), "trainyard.dev/v1alpha1");
    }

    #[test]
    fn selectors_are_decoded() {
        let list = parse("GET", "/api/v1/pods?labelSelector=a%3Db%2Cc+in+%28d%29&watch=true");
        assert_eq!(list.parameter("labelSelector"), Some("a=b,c in (d)"));
        assert_eq!(list.verb, Verb::Watch);
    }
}
