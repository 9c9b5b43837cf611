//! A typed handle on one map: keys and values of the sizes `lb_common` declares, checked when opened.
//!
//! Reads come in bounded slices, so that no reader holds more than one slice beside what it keeps.

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use super::DatapathError;
use super::sys::{self, BatchError, Cursor, SysError};

/// Elements per batched call.
pub const SLICE: usize = 4096;

/// A map with keys `K` and values `V`.
#[derive(Debug)]
pub struct Table<K, V> {
    fd: Arc<OwnedFd>,
    /// The map's name.
    pub name: &'static str,
    /// The map's capacity.
    pub max_entries: u32,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Table { fd: Arc::clone(&self.fd), name: self.name, max_entries: self.max_entries, types: PhantomData }
    }
}

impl<K, V> AsFd for Table<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<K: aya::Pod, V: aya::Pod> Table<K, V> {
    /// Opens the map pinned as `dir/name`; refuses one whose key or value size is not `K`'s or `V`'s.
    pub fn open(dir: &Path, name: &'static str) -> Result<Self, DatapathError> {
        let path = dir.join(name);
        let fd = sys::obj_get(&path).map_err(|source| DatapathError::kernel(path.display(), source))?;
        Self::from_fd(fd, name)
    }

    /// Wraps an open map after the same check.
    pub fn from_fd(fd: OwnedFd, name: &'static str) -> Result<Self, DatapathError> {
        let info = sys::map_info(fd.as_fd()).map_err(|source| DatapathError::kernel(name, source))?;
        let wanted =
            [("key size", info.key_size, size_of::<K>()), ("value size", info.value_size, size_of::<V>())];
        for (property, pinned, wanted) in wanted {
            if pinned as usize != wanted {
                return Err(DatapathError::Schema(vec![super::pins::Mismatch {
                    map: name.to_owned(),
                    property,
                    pinned: u64::from(pinned),
                    wanted: wanted as u64,
                }]));
            }
        }
        Ok(Table { fd: Arc::new(fd), name, max_entries: info.max_entries, types: PhantomData })
    }

    /// One element, or none.
    pub fn get(&self, key: &K) -> Result<Option<V>, SysError> {
        let mut value = [zeroed::<V>()];
        match sys::map_lookup(self.as_fd(), key, &mut value) {
            Ok(()) => Ok(Some(value[0])),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes one element.
    pub fn put(&self, key: &K, value: &V) -> Result<(), SysError> {
        sys::map_update(self.as_fd(), key, value)
    }

    /// Deletes one element; a missing one is no error.
    pub fn delete(&self, key: &K) -> Result<(), SysError> {
        match sys::map_delete(self.as_fd(), key) {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }

    /// Writes many elements, in order.
    pub fn put_all(&self, entries: &[(K, V)]) -> Result<(), BatchError> {
        let mut done = 0;
        for chunk in entries.chunks(SLICE) {
            let (keys, values): (Vec<K>, Vec<V>) = chunk.iter().copied().unzip();
            sys::map_update_batch(self.as_fd(), &keys, &values)
                .map_err(|e| BatchError { done: done + e.done, ..e })?;
            done += chunk.len();
        }
        Ok(())
    }

    /// Deletes many elements of a hash; missing ones are no error.
    pub fn delete_all(&self, keys: &[K]) -> Result<(), BatchError> {
        let mut done = 0;
        while done < keys.len() {
            let end = keys.len().min(done + SLICE);
            match sys::map_delete_batch(self.as_fd(), &keys[done..end]) {
                Ok(()) => done = end,
                // The kernel stops at a key that does not exist: step over it.
                Err(e) if e.source.is_not_found() => done += e.done + 1,
                Err(e) => return Err(BatchError { done: done + e.done, ..e }),
            }
        }
        Ok(())
    }

    /// The next slice of elements, at most `len` unless a hash bucket is larger. Empty only at the end.
    pub fn next_slice(&self, cursor: &mut Cursor, len: usize) -> Result<Vec<(K, V)>, SysError> {
        let mut len = len.clamp(1, self.max_entries.max(1) as usize);
        while !cursor.is_done() {
            let mut keys = vec![zeroed::<K>(); len];
            let mut values = vec![zeroed::<V>(); len];
            match sys::map_lookup_batch(self.as_fd(), cursor, &mut keys, &mut values) {
                Ok(0) => {}
                Ok(n) => return Ok(keys.into_iter().zip(values).take(n).collect()),
                Err(e) if e.errno() == libc::ENOSPC => len *= 2,
                Err(e) => return Err(e),
            }
        }
        Ok(Vec::new())
    }

    /// Shows every element to `see`, slice by slice.
    pub fn for_each(&self, mut see: impl FnMut(K, V)) -> Result<(), SysError> {
        let mut cursor = Cursor::default();
        while !cursor.is_done() {
            for (k, v) in self.next_slice(&mut cursor, SLICE)? {
                see(k, v);
            }
        }
        Ok(())
    }
}

/// The all-zero value of a map type.
fn zeroed<T: aya::Pod>() -> T {
    // SAFETY: `Pod` types are integers and arrays of them: all zeros is a value.
    unsafe { std::mem::zeroed() }
}
