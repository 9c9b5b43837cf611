//! `Objects`: the objects of one kind in order of their key, cheap to copy and to compare with an older copy.
//!
//! A copy shares everything: the objects lie in sorted chunks behind `Arc`s, a change copies the one chunk it
//! touches. So a snapshot of 10,000 objects costs nothing, and [`Objects::changes`] between two snapshots skips
//! what both share: its cost is that of the chunks in which they differ.
//! Invariants: keys rise strictly within and across chunks; no chunk is empty or longer than [`MOST`].

use std::cmp::Ordering;
use std::sync::Arc;

use super::Key;

/// Objects in a full chunk: small enough to copy for one change, large enough to keep the list of chunks short.
const MOST: usize = 128;

/// An object that carries its own key.
pub trait Keyed {
    /// Namespace and name.
    fn key(&self) -> &Key;
}

type Chunk<T> = Arc<Vec<Arc<T>>>;

/// Objects of one kind, ordered by key.
#[derive(Debug)]
pub struct Objects<T> {
    chunks: Arc<Vec<Chunk<T>>>,
    len: usize,
}

/// How one object differs between two [`Objects`].
#[derive(Debug, PartialEq, Eq)]
pub struct Change<'a, T> {
    /// In the older one.
    pub old: Option<&'a Arc<T>>,
    /// In the newer one.
    pub new: Option<&'a Arc<T>>,
}

impl<T: Keyed> Objects<T> {
    /// None.
    pub fn new() -> Self {
        Objects { chunks: Arc::default(), len: 0 }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The object of a key.
    pub fn get(&self, key: &Key) -> Option<&Arc<T>> {
        let (chunk, at) = self.find(key);
        at.ok().map(|at| &self.chunks[chunk][at])
    }

    /// Is there one of this key?
    pub fn contains_key(&self, key: &Key) -> bool {
        self.get(key).is_some()
    }

    /// Inserts or replaces; gives what was there.
    pub fn insert(&mut self, object: impl Into<Arc<T>>) -> Option<Arc<T>> {
        let object = object.into();
        let (chunk, at) = self.find(object.key());
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(target) = chunks.get_mut(chunk) else {
            chunks.push(Arc::new(vec![object]));
            self.len += 1;
            return None;
        };
        let entries = Arc::make_mut(target);
        match at {
            Ok(at) => Some(std::mem::replace(&mut entries[at], object)),
            Err(at) => {
                entries.insert(at, object);
                self.len += 1;
                if entries.len() > MOST {
                    // Appending in order is the usual way to fill: leave full chunks behind then.
                    let keep = if at == MOST { MOST } else { entries.len() / 2 };
                    let upper = entries.split_off(keep);
                    chunks.insert(chunk + 1, Arc::new(upper));
                }
                None
            }
        }
    }

    /// Removes; gives what was there.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<T>> {
        let (chunk, at) = self.find(key);
        let at = at.ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let entries = Arc::make_mut(chunks.get_mut(chunk)?);
        let removed = entries.remove(at);
        if entries.is_empty() {
            chunks.remove(chunk);
        }
        self.len -= 1;
        Some(removed)
    }

    /// All objects in order of key.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// All objects in order of key.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.iter().map(|object| &**object)
    }

    /// All keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.values().map(Keyed::key)
    }

    /// True when both are one and the same snapshot: quick, and false proves nothing.
    pub fn is_same(&self, other: &Objects<T>) -> bool {
        Arc::ptr_eq(&self.chunks, &other.chunks)
    }

    /// The chunk a key belongs to, and its place or the place to insert it in there.
    fn find(&self, key: &Key) -> (usize, Result<usize, usize>) {
        let begins_after = |chunk: &Chunk<T>| chunk.first().is_some_and(|first| first.key() > key);
        let chunk = self.chunks.partition_point(|chunk| !begins_after(chunk)).saturating_sub(1);
        let at = match self.chunks.get(chunk) {
            Some(entries) => entries.binary_search_by(|object| object.key().cmp(key)),
            None => Err(0),
        };
        (chunk, at)
    }
}

impl<T: Keyed + PartialEq> Objects<T> {
    /// What changed since `older`, in order of key.
    pub fn changes<'a>(&'a self, older: &'a Objects<T>) -> Vec<Change<'a, T>> {
        let mut changes = Vec::new();
        if self.is_same(older) {
            return changes;
        }
        let (mut old, mut new) = (Cursor::new(older), Cursor::new(self));
        loop {
            if let (Some(a), Some(b)) = (old.whole_chunk(), new.whole_chunk())
                && Arc::ptr_eq(a, b)
            {
                old.skip_chunk();
                new.skip_chunk();
                continue;
            }
            let (was, is) = (old.object(), new.object());
            let order = match (was, is) {
                (None, None) => return changes,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.key().cmp(b.key()),
            };
            let (was, is) = match order {
                Ordering::Less => (was, None),
                Ordering::Equal => (was, is),
                Ordering::Greater => (None, is),
            };
            let equal = matches!((was, is), (Some(a), Some(b)) if Arc::ptr_eq(a, b) || a == b);
            if !equal {
                changes.push(Change { old: was, new: is });
            }
            if was.is_some() {
                old.advance();
            }
            if is.is_some() {
                new.advance();
            }
        }
    }
}

/// A place in the chunks.
struct Cursor<'a, T> {
    chunks: &'a [Chunk<T>],
    at: usize,
}

impl<'a, T> Cursor<'a, T> {
    fn new(objects: &'a Objects<T>) -> Self {
        Cursor { chunks: &objects.chunks, at: 0 }
    }

    /// The chunk, if it begins here.
    fn whole_chunk(&self) -> Option<&'a Chunk<T>> {
        self.chunks.first().filter(|_| self.at == 0)
    }

    fn object(&self) -> Option<&'a Arc<T>> {
        self.chunks.first().and_then(|chunk| chunk.get(self.at))
    }

    fn skip_chunk(&mut self) {
        self.chunks = self.chunks.get(1..).unwrap_or_default();
        self.at = 0;
    }

    fn advance(&mut self) {
        self.at += 1;
        if self.chunks.first().is_some_and(|chunk| self.at >= chunk.len()) {
            self.skip_chunk();
        }
    }
}

impl<T> Clone for Objects<T> {
    fn clone(&self) -> Self {
        Objects { chunks: Arc::clone(&self.chunks), len: self.len }
    }
}

impl<T: Keyed> Default for Objects<T> {
    fn default() -> Self {
        Objects::new()
    }
}

impl<T: Keyed + PartialEq> PartialEq for Objects<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.changes(other).is_empty()
    }
}

impl<T: Keyed + Eq> Eq for Objects<T> {}

impl<T: Keyed, U: Into<Arc<T>>> FromIterator<U> for Objects<T> {
    fn from_iter<I: IntoIterator<Item = U>>(objects: I) -> Self {
        let mut all = Objects::new();
        objects.into_iter().for_each(|object| drop(all.insert(object)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Debug, PartialEq, Eq, Clone)]
    struct Thing(Key, u32);

    impl Keyed for Thing {
        fn key(&self) -> &Key {
            &self.0
        }
    }

    fn thing(n: u32, value: u32) -> Thing {
        Thing(Key::new("ns", format!("t{n:05}")), value)
    }

    /// The same random inserts and removals on a `BTreeMap` and on `Objects`; every copy taken on the way stays
    /// what it was, and the changes between copies are exactly the differences.
    #[test]
    fn it_is_a_map_whose_copies_stay_and_whose_changes_are_the_differences() {
        let mut numbers = fastrand::Rng::with_seed(7);
        let (mut model, mut objects) = (BTreeMap::new(), Objects::new());
        let mut copies = vec![(model.clone(), objects.clone())];
        for step in 0..20_000u32 {
            let n = numbers.u32(..2_000);
            let object = thing(n, numbers.u32(..3));
            if numbers.u8(..10) < if step < 8_000 { 8 } else { 4 } {
                let old = model.insert(object.0.clone(), object.clone());
                assert_eq!(objects.insert(object).as_deref(), old.as_ref());
            } else {
                let old = model.remove(&object.0);
                assert_eq!(objects.remove(&object.0).as_deref(), old.as_ref());
            }
            if step % 1_500 == 0 {
                copies.push((model.clone(), objects.clone()));
            }
        }
        for (model, objects) in &copies {
            assert_eq!(objects.len(), model.len());
            assert!(objects.values().eq(model.values()));
            assert!(objects.chunks.iter().all(|chunk| (1..=MOST).contains(&chunk.len())));
            assert!(model.keys().all(|key| objects.get(key).map(|o| &**o) == model.get(key)));
        }
        for pair in copies.windows(2) {
            let [(old_model, old), (new_model, new)] = pair else { panic!("pairs") };
            let mut model = old_model.clone();
            for change in new.changes(old) {
                match (change.old, change.new) {
                    (_, Some(now)) => drop(model.insert(now.0.clone(), (**now).clone())),
                    (Some(was), None) => drop(model.remove(&was.0)),
                    (None, None) => panic!("a change of nothing"),
                }
                assert_ne!(change.old, change.new);
            }
            assert_eq!(&model, new_model);
        }
    }

    #[test]
    fn equality_is_that_of_the_objects_not_of_the_chunks() {
        let straight: Objects<Thing> = (0..1_000).map(|n| thing(n, 0)).collect();
        let mut backwards: Objects<Thing> = (0..1_000).rev().map(|n| thing(n, 0)).collect();
        assert_eq!(straight, backwards);
        backwards.insert(thing(500, 1));
        assert_ne!(straight, backwards);
        assert_eq!(backwards.changes(&straight).len(), 1);
    }
}
