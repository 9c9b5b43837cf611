//! The files of the directory and what each last said: reading, keeping the last good, joining into one world.
//!
//! Invariants: a file that is broken, unreadable or emptied keeps its last good objects until it is good again or
//! gone; a directory that cannot be read keeps everything; files count in the order of their names, the first
//! object of a name wins.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::parse::{Parsed, parse};
use crate::kube::convert::{Object, Selection};
use crate::model::{Problem, World};
use crate::sources::intern::Interner;

/// Everything known of the directory.
pub(super) struct Files {
    dir: PathBuf,
    node_name: String,
    selection: Selection,
    files: BTreeMap<String, File>,
    names: Interner,
}

#[derive(Default)]
struct File {
    /// What was read last; `None` if reading failed.
    text: Option<String>,
    good: Parsed,
    /// The problems of the broken state after the good one.
    fault: Option<Vec<Problem>>,
}

impl Files {
    /// Nothing read yet.
    pub(super) fn new(dir: PathBuf, node_name: String, selection: Selection) -> Self {
        Files { dir, node_name, selection, files: BTreeMap::new(), names: Interner::default() }
    }

    /// Reads what has changed; an error means that the directory cannot be listed and nothing was changed.
    pub(super) fn scan(&mut self) -> io::Result<()> {
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if let Some(name) = manifest_name(&path) {
                found.insert(name, path);
            }
        }
        self.files.retain(|name, _| found.contains_key(name));
        for (name, path) in found {
            self.read(&name, &path);
        }
        Ok(())
    }

    fn read(&mut self, name: &str, path: &Path) {
        if path.is_dir() {
            return;
        }
        let whole =
            |message: String| Problem { object: format!("file {name}"), field: String::new(), message };
        let file = self.files.entry(name.to_owned()).or_default();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                file.text = None;
                file.fault = Some(vec![whole(format!("cannot be read: {error}"))]);
                return;
            }
        };
        // The text itself is compared: two writes within one tick of the clock look alike otherwise.
        if file.text.as_ref() == Some(&text) {
            return;
        }
        if text.trim().is_empty() && !file.good.objects.is_empty() {
            // Reading nothing from a file that had objects is most likely the middle of a rewrite.
            file.fault = Some(vec![whole("is empty; delete it to remove its objects".into())]);
        } else {
            let mut parsed = parse(name, &text, &self.selection);
            for (_, object) in &mut parsed.objects {
                if let Object::Slice(slice) = object
                    && let Some(slice) = Arc::get_mut(slice)
                {
                    self.names.share(slice);
                }
            }
            if parsed.broken && !file.good.objects.is_empty() {
                file.fault = Some(parsed.problems);
            } else {
                file.good = parsed;
                file.fault = None;
            }
        }
        file.text = Some(text);
    }

    /// The world of all files together.
    pub(super) fn world(&self) -> (World, Vec<Problem>) {
        let mut world = World::default();
        let mut problems = Vec::new();
        for file in self.files.values() {
            problems.extend(file.fault.as_ref().unwrap_or(&file.good.problems).iter().cloned());
            for (place, object) in &file.good.objects {
                if let Some(name) = self.insert(&mut world, object) {
                    let message = format!("{name} was given before; this one is not used");
                    problems.push(Problem { object: place.clone(), field: "metadata.name".into(), message });
                }
            }
        }
        world.service_cidrs.sort();
        world.service_cidrs.dedup();
        (world, problems)
    }

    /// Inserts an object; the name if there is one of that name already.
    fn insert(&self, world: &mut World, object: &Object) -> Option<String> {
        match object {
            Object::Service(service) => {
                if world.services.contains_key(&service.key) {
                    return Some(format!("Service {}", service.key));
                }
                world.services.insert(service.clone());
            }
            Object::Slice(slice) => {
                if world.slices.contains_key(&slice.key) {
                    return Some(format!("EndpointSlice {}", slice.key));
                }
                world.slices.insert(slice.clone());
            }
            Object::ServiceCidr(object) => world.service_cidrs.extend(&object.cidrs),
            Object::Node(node) if node.name == self.node_name => match &world.node {
                Some(known) => return Some(format!("Node {}", known.name)),
                None => world.node = Some(node.clone()),
            },
            Object::Node(_) => {}
        }
        None
    }
}

/// The name of a file that is read: `*.yaml`, `*.yml`, `*.json`, not hidden.
fn manifest_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let wanted = matches!(path.extension()?.to_str()?, "yaml" | "yml" | "json");
    (wanted && !name.starts_with('.')).then(|| name.to_owned())
}
