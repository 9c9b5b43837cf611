//! Who uses what among the service ports, counted: backends, addresses, source ranges, and how much of each table.
//!
//! The sum of all service ports, kept up to date as ports come and go; equals what `capacity::admit` adds up when
//! everything fits.

use super::capacity::{backend_budget, range_budget, slot_budget};
use super::keys::{BackendKey, frontend_family};
use super::ranges::SourceRanges;
use super::{Desired, DesiredPort};
use crate::model::Family;
use crate::tables::{FrontendKey, Limits};
use lb_common::backend::{BACKEND_LIVE, BACKEND_LOCAL, BACKEND_SERVING};
use std::collections::btree_map::Entry;
use std::collections::{BTreeSet, HashMap};

/// What a change of service ports changes besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Touched {
    pub backends: BTreeSet<BackendKey>,
    pub addresses: BTreeSet<FrontendKey>,
}

/// Users of what several service ports can have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shared {
    /// Backends that more than one service port lists; all others have the flags of their only user.
    backends: HashMap<BackendKey, Users>,
    addresses: HashMap<FrontendKey, u32>,
    ranges: HashMap<SourceRanges, u32>,
    v4: Used,
    v6: Used,
    slots: usize,
}

/// One family's use of the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Used {
    frontends: usize,
    backends: usize,
    ranges: usize,
}

/// How many users a backend has, and how many of them see it with which flag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Users {
    all: u32,
    serving: u32,
    local: u32,
}

impl Users {
    fn count(&mut self, flags: u8, by: i32) {
        let add = |n: &mut u32, counts: bool| *n = n.saturating_add_signed(if counts { by } else { 0 });
        add(&mut self.all, true);
        add(&mut self.serving, flags & BACKEND_SERVING != 0);
        add(&mut self.local, flags & BACKEND_LOCAL != 0);
    }

    fn flags(&self) -> u8 {
        let flag = |users: u32, flag: u8| if users > 0 { flag } else { 0 };
        flag(self.all, BACKEND_LIVE) | flag(self.serving, BACKEND_SERVING) | flag(self.local, BACKEND_LOCAL)
    }
}

impl Shared {
    fn used(&mut self, family: Family) -> &mut Used {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// A service port is replaced, comes (`old` is `None`) or goes (`new` is `None`).
    pub fn replace(
        &mut self,
        old: Option<&DesiredPort>,
        new: Option<&DesiredPort>,
        desired: &mut Desired,
        touched: &mut Touched,
    ) {
        // First what comes: what stays in use is never forgotten in between.
        let (was, is) = (listed(old), listed(new));
        for added in is.iter().filter(|b| was.binary_search(b).is_err()) {
            self.add_backend(*added, desired);
            touched.backends.insert(added.0);
        }
        for gone in was.iter().filter(|b| is.binary_search(b).is_err()) {
            self.drop_backend(*gone, desired);
            touched.backends.insert(gone.0);
        }
        if let Some(port) = new {
            self.count(port, 1);
            self.add_address(port.address, desired, touched);
        }
        if let Some(port) = old {
            self.count(port, -1);
            self.drop_address(port.address, desired, touched);
        }
    }

    fn count(&mut self, port: &DesiredPort, by: isize) {
        let slots = port.cluster.len() + port.local.len();
        self.slots = self.slots.saturating_add_signed(by * slots as isize);
        let used = self.used(frontend_family(&port.address));
        used.frontends = used.frontends.saturating_add_signed(by * port.frontends.len() as isize);
        for ranges in port.frontends.iter().filter_map(|frontend| frontend.ranges.as_ref()) {
            self.count_ranges(ranges, by);
        }
    }

    fn count_ranges(&mut self, ranges: &SourceRanges, by: isize) {
        let users = self.ranges.entry(ranges.clone()).or_default();
        let before = *users;
        *users = users.saturating_add_signed(by as i32);
        let after = *users;
        if after == 0 {
            self.ranges.remove(ranges);
        }
        let (was, is) = (before > 0, after > 0);
        if was != is
            && let Some(first) = ranges.first()
        {
            let used = self.used(Family::of(&first.addr()));
            used.ranges = used.ranges.saturating_add_signed(by * ranges.len() as isize);
        }
    }

    fn add_backend(&mut self, (key, flags): (BackendKey, u8), desired: &mut Desired) {
        match desired.backends.entry(key) {
            Entry::Vacant(free) => {
                free.insert(flags);
                self.used(key.family()).backends += 1;
            }
            Entry::Occupied(mut held) => {
                let users = self.backends.entry(key).or_insert_with(|| {
                    let mut only = Users::default();
                    only.count(*held.get(), 1);
                    only
                });
                users.count(flags, 1);
                held.insert(users.flags());
            }
        }
    }

    fn drop_backend(&mut self, (key, flags): (BackendKey, u8), desired: &mut Desired) {
        let Some(users) = self.backends.get_mut(&key) else {
            desired.backends.remove(&key);
            self.used(key.family()).backends -= 1;
            return;
        };
        users.count(flags, -1);
        desired.backends.insert(key, users.flags());
        if users.all <= 1 {
            self.backends.remove(&key);
        }
    }

    fn add_address(&mut self, address: FrontendKey, desired: &mut Desired, touched: &mut Touched) {
        let users = self.addresses.entry(address).or_default();
        *users += 1;
        if *users == 1 {
            desired.addresses.insert(address);
            touched.addresses.insert(address);
            self.used(frontend_family(&address)).frontends += 1;
        }
    }

    fn drop_address(&mut self, address: FrontendKey, desired: &mut Desired, touched: &mut Touched) {
        let Some(users) = self.addresses.get_mut(&address) else { return };
        *users -= 1;
        if *users == 0 {
            self.addresses.remove(&address);
            desired.addresses.remove(&address);
            touched.addresses.insert(address);
            self.used(frontend_family(&address)).frontends -= 1;
        }
    }

    /// True when everything that is wanted fits into the tables.
    pub fn fits(&self, limits: &Limits) -> bool {
        let family_fits = |used: &Used| {
            used.frontends <= limits.services as usize
                && used.backends <= backend_budget(limits)
                && used.ranges <= range_budget(limits)
        };
        family_fits(&self.v4) && family_fits(&self.v6) && self.slots <= slot_budget(limits)
    }
}

fn listed(port: Option<&DesiredPort>) -> &[(BackendKey, u8)] {
    port.map(|port| port.backends.as_slice()).unwrap_or_default()
}
