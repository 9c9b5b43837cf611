//! The text of one manifest file to model objects: pure.
//!
//! A file holds any number of documents, YAML or JSON (which is YAML), each one object or a List. A document that
//! cannot be used makes the file broken, and its problem names file, document (counted from 1) and field or line.

use serde::Deserialize;
use serde_json::Value;

use crate::kube::convert::{self, Object, Selection};
use crate::model::Problem;

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    /// Objects with the place they come from.
    pub(super) objects: Vec<(String, Object)>,
    /// Everything that is wrong.
    pub(super) problems: Vec<Problem>,
    /// Whether an object could not be used at all, so that a former good state is to be kept.
    pub(super) broken: bool,
}

impl Parsed {
    fn broken(&mut self, place: String, field: String, message: String) {
        self.problems.push(Problem { object: place, field, message });
        self.broken = true;
    }
}

/// Parses the whole text of the file `name`.
pub(super) fn parse(name: &str, text: &str, selection: &Selection) -> Parsed {
    let mut parsed = Parsed::default();
    for (index, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let place = format!("file {name} document {}", index + 1);
        let mut track = serde_path_to_error::Track::new();
        let document = serde_path_to_error::Deserializer::new(document, &mut track);
        match Value::deserialize(document) {
            Ok(Value::Null) => {}
            Ok(json) => take(&mut parsed, &place, json, selection),
            Err(error) => {
                let path = track.path().to_string();
                parsed.broken(place, if path == "." { String::new() } else { path }, error.to_string());
                // After a fault the reader does not find the next document; it would repeat the fault for ever.
                break;
            }
        }
    }
    parsed
}

fn take(parsed: &mut Parsed, place: &str, mut json: Value, selection: &Selection) {
    let Some(kind) = json.get("kind").and_then(Value::as_str).map(str::to_owned) else {
        parsed.broken(place.to_owned(), "kind".into(), "is missing or not a text".into());
        return;
    };
    if let Some(item_kind) = kind.strip_suffix("List") {
        let api_version = json.get("apiVersion").cloned();
        let Some(items) = json.get_mut("items").and_then(Value::as_array_mut) else {
            parsed.broken(place.to_owned(), "items".into(), "is missing or not a list".into());
            return;
        };
        for (index, mut item) in std::mem::take(items).into_iter().enumerate() {
            // The items of a typed list need not repeat their type.
            if let (Value::Object(item), false) = (&mut item, item_kind.is_empty()) {
                item.entry("kind").or_insert_with(|| item_kind.into());
                item.entry("apiVersion").or_insert_with(|| api_version.clone().unwrap_or_default());
            }
            take(parsed, &format!("{place} items[{index}]"), item, selection);
        }
        return;
    }
    convert::fill_defaults(&mut json);
    let Some(converted) = convert::object(&json, selection) else {
        let message = format!(
            "`{kind}` of this apiVersion is not read: only Service, EndpointSlice, Node, ServiceCIDR"
        );
        parsed.problems.push(Problem { object: place.to_owned(), field: "kind".into(), message });
        return;
    };
    parsed.broken |= converted.value.is_none() && !converted.problems.is_empty();
    parsed.problems.extend(
        converted
            .problems
            .into_iter()
            .map(|problem| Problem { object: format!("{place}: {}", problem.object), ..problem }),
    );
    parsed.objects.extend(converted.value.map(|object| (place.to_owned(), object)));
}
