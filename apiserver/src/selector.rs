//! Label and field selectors of list and watch requests.
//!
//! Labels: `key`, `!key`, `key=value`, `key==value`, `key!=value`, joined by commas. Fields: `=`, `==` and `!=` on
//! `metadata.name`, `metadata.namespace` and `spec.clusterIP`. Anything else is refused, as the real server does.

use serde_json::Value;

/// A parsed selector; the empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    /// Path from the object's root to the text.
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Missing,
    Is(String),
    /// Also true when there is no such text.
    IsNot(String),
}

impl Selector {
    /// Parses both selectors of a request.
    pub(crate) fn parse(labels: &str, fields: &str) -> Result<Selector, String> {
        let mut terms = Vec::new();
        for text in labels.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            let (key, test) = match (text.strip_prefix('!'), comparison(text)) {
                (Some(key), None) => (key, Test::Missing),
                (None, Some(comparison)) => comparison,
                (None, None) => (text, Test::Exists),
                (Some(_), Some(_)) => return Err(format!("unable to parse label requirement `{text}`")),
            };
            if key.is_empty() || key.contains([' ', '(', ')', '!']) {
                return Err(format!("unable to parse label requirement `{text}`"));
            }
            terms.push(Term { path: vec!["metadata".into(), "labels".into(), key.into()], test });
        }
        for text in fields.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            let (field, test) = comparison(text).ok_or(format!("invalid field selector `{text}`"))?;
            if !matches!(field, "metadata.name" | "metadata.namespace" | "spec.clusterIP") {
                return Err(format!("field label not supported: {field}"));
            }
            terms.push(Term { path: field.split('.').map(str::to_owned).collect(), test });
        }
        Ok(Selector { terms })
    }

    /// Whether an object is selected.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|term| {
            let text =
                term.path.iter().try_fold(object, |value, step| value.get(step)).and_then(Value::as_str);
            match &term.test {
                Test::Exists => text.is_some(),
                Test::Missing => text.is_none(),
                Test::Is(wanted) => text == Some(wanted),
                Test::IsNot(unwanted) => text != Some(unwanted),
            }
        })
    }
}

fn comparison(text: &str) -> Option<(&str, Test)> {
    if let Some((key, value)) = text.split_once("!=") {
        return Some((key.trim(), Test::IsNot(value.trim().into())));
    }
    let (key, value) = text.split_once("==").or_else(|| text.split_once('='))?;
    Some((key.trim(), Test::Is(value.trim().into())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_select_by_existence_absence_and_value() {
        let object = json!({"metadata": {"labels": {"a": "1"}}});
        for (selector, expected) in [
            ("", true),
            ("a", true),
            ("!a", false),
            ("b", false),
            ("!b", true),
            ("a=1", true),
            ("a==2", false),
            ("a!=2,!b", true),
            ("b!=1", true),
        ] {
            assert_eq!(Selector::parse(selector, "").unwrap().matches(&object), expected, "{selector}");
        }
        assert!(Selector::parse("a in (1, 2)", "").is_err());
    }

    #[test]
    fn fields_select_by_name_and_cluster_ip_only() {
        let object = json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "None"}});
        assert!(Selector::parse("", "metadata.name=web").unwrap().matches(&object));
        assert!(!Selector::parse("", "spec.clusterIP!=None").unwrap().matches(&object));
        assert!(Selector::parse("", "spec.type=NodePort").is_err());
    }
}
