//! Room in the slots array: first fit among the gaps between the ranges in use.
//!
//! Invariant: gaps never touch each other, so that the same ranges in use always give the same gaps.

use std::collections::BTreeMap;

/// The gaps of the slots array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Offset → length, never adjacent to each other.
    gaps: BTreeMap<u32, u32>,
}

impl Room {
    /// The gaps that `used` ranges (offset, count) leave in an array of `size` slots.
    pub fn between<'a>(used: impl Iterator<Item = &'a (u32, u32)>, size: u32) -> Room {
        let mut used: Vec<(u32, u32)> = used.copied().collect();
        used.sort_unstable();
        let mut gaps = BTreeMap::new();
        let mut at = 0u32;
        for (offset, count) in used {
            let offset = offset.min(size);
            if offset > at {
                gaps.insert(at, offset - at);
            }
            at = at.max(offset.saturating_add(count).min(size));
        }
        if at < size {
            gaps.insert(at, size - at);
        }
        Room { gaps }
    }

    /// Takes `count` slots from the first gap that is large enough.
    pub fn take(&mut self, count: u32) -> Option<u32> {
        let (offset, len) = self.gaps.iter().find(|(_, len)| **len >= count).map(|(o, l)| (*o, *l))?;
        self.gaps.remove(&offset);
        if len > count {
            self.gaps.insert(offset + count, len - count);
        }
        Some(offset)
    }

    /// Gives back a range that was taken and overlaps no other.
    pub fn give(&mut self, offset: u32, count: u32) {
        let (mut from, mut to) = (offset, offset.saturating_add(count));
        if let Some((before, len)) = self.gaps.range(..from).next_back().map(|(o, l)| (*o, *l))
            && before.saturating_add(len) == from
        {
            self.gaps.remove(&before);
            from = before;
        }
        if let Some(len) = self.gaps.remove(&to) {
            to = to.saturating_add(len);
        }
        self.gaps.insert(from, to - from);
    }

    /// Length of the longest gap.
    pub fn longest(&self) -> u32 {
        self.gaps.values().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::Room;

    #[test]
    fn gaps_are_what_used_ranges_leave() {
        let mut room = Room::between([(2, 3), (3, 4), (9, 1)].iter(), 12);
        assert_eq!(room.longest(), 2);
        assert_eq!(room.take(2), Some(0));
        assert_eq!(room.take(1), Some(7));
        assert_eq!(room.take(2), Some(10));
        assert_eq!(room.take(2), None);
        assert_eq!(room.take(1), Some(8));
        assert_eq!(room.longest(), 0);
    }

    #[test]
    fn what_is_given_back_joins_its_neighbours() {
        let used = [(0, 2), (2, 3), (5, 1), (8, 2)];
        let mut room = Room::between(used.iter(), 12);
        for (offset, count, rest) in
            [(2, 3, &[(0, 2), (5, 1), (8, 2)][..]), (0, 2, &[(5, 1), (8, 2)]), (8, 2, &[(5, 1)]), (5, 1, &[])]
        {
            room.give(offset, count);
            assert_eq!(room, Room::between(rest.iter(), 12));
        }
    }

    #[test]
    fn ranges_beyond_the_array_take_nothing() {
        let mut room = Room::between([(100, 5), (3, 50)].iter(), 4);
        assert_eq!(room.take(3), Some(0));
        assert_eq!(room.take(1), None);
    }
}
