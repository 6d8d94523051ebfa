//! Label and field selectors.

use serde_json::Value;

use crate::{
    refusal::Refusal,
    value::{at_path, meta},
};

#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    labels: Vec<(String, Test)>,
    fields: Vec<(String, Test)>,
}

#[derive(Clone, Debug)]
enum Test {
    Equals(String),
    Differs(String),
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Selector {
    pub fn parse(labels: Option<&str>, fields: Option<&str>) -> Result<Self, Refusal> {
        let parse = |text: Option<&str>| text.map_or_else(|| Ok(Vec::new()), parse_terms);
        Ok(Self { labels: parse(labels)?, fields: parse(fields)? })
    }

    pub fn matches(&self, object: &Value) -> bool {
        let label = |name: &str| meta(object, "labels")[name].as_str();
        self.labels.iter().all(|(name, test)| test.holds(label(name)))
            // A field that is absent is compared as an empty text, as the real server does.
            && self.fields.iter().all(|(path, test)| test.holds(Some(&at_path(object, path))))
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::Equals(wanted) => value == Some(wanted),
            Self::Differs(unwanted) => value != Some(unwanted),
            Self::In(wanted) => value.is_some_and(|value| wanted.iter().any(|one| one == value)),
            Self::NotIn(unwanted) => value.is_none_or(|value| unwanted.iter().all(|one| one != value)),
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
        }
    }
}

fn parse_terms(text: &str) -> Result<Vec<(String, Test)>, Refusal> {
    let mut terms = Vec::new();
    let mut depth = 0_u32;
    let mut start = 0;
    for (index, letter) in text.char_indices().chain([(text.len(), ',')]) {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                let term = text[start..index].trim();
                if !term.is_empty() {
                    terms.push(parse_term(term)?);
                }
                start = index + 1;
            }
            _ => {}
        }
    }
    Ok(terms)
}

fn parse_term(term: &str) -> Result<(String, Test), Refusal> {
    let named = |name: &str, test| Ok((name.trim().to_owned(), test));
    let set = |list: &str| {
        list.trim().trim_matches(['(', ')']).split(',').map(|one| one.trim().to_owned()).collect()
    };
    if let Some((name, value)) = term.split_once("!=") {
        return named(name, Test::Differs(value.trim().to_owned()));
    }
    if let Some((name, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return named(name, Test::Equals(value.trim().to_owned()));
    }
    if let Some((name, list)) = term.split_once(" notin ") {
        return named(name, Test::NotIn(set(list)));
    }
    if let Some((name, list)) = term.split_once(" in ") {
        return named(name, Test::In(set(list)));
    }
    if term.contains(char::is_whitespace) {
        return Err(Refusal::bad_request(format!("unable to parse requirement: {term}")));
    }
    match term.strip_prefix('!') {
        Some(name) => named(name, Test::Absent),
        None => named(term, Test::Exists),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(labels: &str, fields: &str) -> bool {
        let object = json!({
            "metadata": {"name": "a", "labels": {"app": "web", "tier": "front"}},
            "spec": {"nodeName": "n1"},
            "status": {"phase": "Running"},
        });
        Selector::parse(Some(labels), Some(fields)).expect("a valid selector").matches(&object)
    }

    #[test]
    fn labels_select_by_equality_set_and_presence() {
        assert!(matches("app=web,tier!=back", ""));
        assert!(matches("app in (db, web),!gone,tier", ""));
        assert!(!matches("app notin (web)", ""));
        assert!(matches("gone notin (web)", ""));
        assert!(!matches("gone", ""));
    }

    #[test]
    fn fields_select_by_any_path() {
        assert!(matches("", "spec.nodeName=n1,status.phase!=Failed,metadata.name=a"));
        assert!(matches("", "status.reason!=Lost"));
        assert!(!matches("", "status.phase!=Running"));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(Selector::parse(Some("a b c"), None).expect_err("no operator").code, 400);
    }
}
