//! What is wrong outside of the objects: several parts of the agent each keep their own list, readers see the union.
//!
//! A part's list is replaced as a whole, so a problem disappears when its part no longer names it. Sorted and
//! without duplicates, so that an unchanged state wakes nobody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::model::Problem;

/// Where the parts write.
#[derive(Clone, Debug)]
pub struct ProblemBoard {
    parts: Arc<Mutex<BTreeMap<&'static str, Vec<Problem>>>>,
    sender: Arc<watch::Sender<Vec<Problem>>>,
}

impl ProblemBoard {
    /// An empty board, and the reader's end.
    pub fn new() -> (ProblemBoard, watch::Receiver<Vec<Problem>>) {
        let (sender, receiver) = watch::channel(Vec::new());
        (ProblemBoard { parts: Arc::default(), sender: Arc::new(sender) }, receiver)
    }

    /// Replaces the list of one part.
    pub fn set(&self, part: &'static str, problems: Vec<Problem>) {
        // The list of another part is whole whatever happened to its writer.
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.insert(part, problems);
        let mut all: Vec<Problem> = parts.values().flatten().cloned().collect();
        all.sort();
        all.dedup();
        self.sender.send_if_modified(|known| {
            let modified = *known != all;
            *known = all;
            modified
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(object: &str) -> Problem {
        Problem { object: object.to_owned(), field: String::new(), message: "m".to_owned() }
    }

    #[test]
    fn parts_replace_their_own_lists_only_and_nothing_new_wakes_nobody() {
        let (board, mut seen) = ProblemBoard::new();
        board.set("a", vec![problem("2"), problem("1")]);
        board.set("b", vec![problem("1"), problem("3")]);
        assert_eq!(*seen.borrow_and_update(), ["1", "2", "3"].map(problem));
        board.set("b", vec![problem("3")]);
        assert!(!seen.has_changed().expect("open"), "the union is the same");
        board.set("a", vec![]);
        assert_eq!(*seen.borrow_and_update(), [problem("3")]);
    }
}
