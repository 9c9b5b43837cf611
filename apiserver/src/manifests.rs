//! The objects of YAML files, for the server to serve.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::kind::Kind;

/// A file that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory or the file cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A document is not YAML.
    #[error("{path} document {document}: {error}")]
    Parse {
        /// In which file.
        path: PathBuf,
        /// Which, from 1.
        document: usize,
        /// Why.
        error: serde_norway::Error,
    },
}

/// All Services, EndpointSlices and Nodes in the `*.yaml`, `*.yml` and `*.json` files of a directory, in the order
/// of the file names; Lists are taken apart, other kinds are left out.
pub fn read_dir(dir: &Path) -> Result<Vec<Value>, Error> {
    let failed = |path: &Path, error| Error::Read { path: path.to_owned(), error };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| failed(dir, error))? {
        let path = entry.map_err(|error| failed(dir, error))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
        {
            paths.push(path);
        }
    }
    paths.sort();
    let mut objects = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
        for (index, document) in serde_norway::Deserializer::from_str(&text).enumerate() {
            let document = Value::deserialize(document).map_err(|error| Error::Parse {
                path: path.clone(),
                document: index + 1,
                error,
            })?;
            match document.get("items").and_then(Value::as_array) {
                Some(items) => objects.extend(items.iter().filter(|item| Kind::of(item).is_some()).cloned()),
                None if Kind::of(&document).is_some() => objects.push(document),
                None => {}
            }
        }
    }
    Ok(objects)
}
