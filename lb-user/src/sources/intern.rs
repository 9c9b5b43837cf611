//! Names that many endpoints have in common, held once.
//!
//! 100,000 endpoints name a few thousand nodes and a few zones. What nobody refers to any more is forgotten when
//! the number of names has doubled since the last look.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::model::{Hints, Slice};

/// Forgetting is not worth it below this number of names.
const FEW: usize = 1024;

/// Names and hints seen so far.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    names: Pool<str>,
    hints: Pool<Hints>,
}

impl Interner {
    /// Replaces the names in a slice by those seen before.
    pub(crate) fn share(&mut self, slice: &mut Slice) {
        for endpoint in &mut slice.endpoints {
            if let Some(name) = &mut endpoint.node_name {
                self.names.share(name);
            }
            if let Some(hints) = &mut endpoint.hints {
                self.hints.share(hints);
            }
        }
    }
}

#[derive(Debug)]
struct Pool<T: ?Sized> {
    held: HashSet<Arc<T>>,
    look_at: usize,
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Pool { held: HashSet::new(), look_at: FEW }
    }
}

impl<T: ?Sized + Hash + Eq> Pool<T> {
    fn share(&mut self, value: &mut Arc<T>) {
        if let Some(held) = self.held.get(value) {
            *value = Arc::clone(held);
            return;
        }
        if self.held.len() >= self.look_at {
            self.held.retain(|held| Arc::strong_count(held) > 1);
            self.look_at = FEW.max(self.held.len() * 2);
        }
        self.held.insert(Arc::clone(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_become_one_and_unused_ones_go() {
        let mut pool: Pool<str> = Pool::default();
        let (mut a, mut b): (Arc<str>, Arc<str>) = ("node-1".into(), "node-1".into());
        pool.share(&mut a);
        pool.share(&mut b);
        assert!(Arc::ptr_eq(&a, &b));
        for n in 0..100 * FEW {
            pool.share(&mut format!("gone-{n}").into());
        }
        assert!(pool.held.len() <= 2 * FEW && pool.held.contains("node-1"));
    }
}
