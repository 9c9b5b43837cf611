//! Which set, and which backend of it.

use lb_common::service::{
    SET_CLUSTER, SET_LOCAL, SVC_HAS_ANY, SVC_KIND_CLUSTER_IP, SVC_KIND_EXTERNAL_IP, SVC_KIND_LOAD_BALANCER,
    SVC_KIND_NODE_PORT, SVC_POLICY_LOCAL,
};
use lb_common::{Reason, SetRef, Svc};
use lb_ebpf::family::V4;
use lb_ebpf::select::{backend, contains, set_of};
use sim::Sim;
use sim::short::TestFamily;

/// Spec §1.10 steps 3 and 4, for every kind, policy, client and filling of the sets.
#[test]
fn the_set_is_chosen_by_kind_policy_and_client() {
    let kinds = [SVC_KIND_CLUSTER_IP, SVC_KIND_NODE_PORT, SVC_KIND_LOAD_BALANCER, SVC_KIND_EXTERNAL_IP];
    for bits in 0..4 * 32u32 {
        let bit = |n: u32| bits >> n & 1 == 1;
        let (kind, local, near, any) = (kinds[(bits >> 5) as usize], bit(0), bit(1), bit(2));
        let set = |offset, full: bool| SetRef { offset, count: u32::from(full) };
        let mut svc = Svc { flags: kind, ..Svc::default() };
        (svc.sets[SET_CLUSTER], svc.sets[SET_LOCAL]) = (set(10, bit(3)), set(20, bit(4)));
        if local {
            svc.flags |= SVC_POLICY_LOCAL;
        }
        if any {
            svc.flags |= SVC_HAS_ANY;
        }
        let short_circuit = near && kind != SVC_KIND_CLUSTER_IP;
        let wanted = if local && !short_circuit { SET_LOCAL } else { SET_CLUSTER };
        let expected = match svc.sets[wanted].count {
            1 => Ok(svc.sets[wanted]),
            _ if local && (svc.sets[1 - wanted].count > 0 || any) => Err(Reason::DropNoLocalEndpoint),
            _ => Err(Reason::ResetNoEndpoint),
        };
        assert_eq!(set_of(&svc, near), expected, "{svc:?} near {near}");
    }
}

#[test]
fn the_binary_search_finds_exactly_the_members_of_a_set() {
    let mut x = 12_345u32;
    let mut random = |n: u32| {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 8) % n
    };
    for size in (0..70).chain([255, 256, 257, 1_000]) {
        let sim = Sim::new(8);
        // Neighbours of the range must not be taken for members.
        sim.set(&[1, 2, 3]);
        let mut ids: Vec<u32> = (0..size).map(|_| 1 + random(4 * size + 1)).collect();
        ids.sort_unstable();
        ids.dedup();
        let set = sim.set(&ids);
        sim.set(&[4, 5, 6]);
        for id in 0..=4 * size + 3 {
            assert_eq!(contains::<V4, _>(&sim, set, id), ids.contains(&id), "{id} in {ids:?}");
        }
    }
}

#[test]
fn the_largest_set_is_searched_to_its_ends() {
    let sim = Sim::new(8);
    let ids: Vec<u32> = (1..=1 << 17).map(|i| i * 2).collect();
    let set = sim.set(&ids);
    for id in [2, 4, 1 << 17, (1 << 18) - 2, 1 << 18] {
        assert!(contains::<V4, _>(&sim, set, id));
        assert!(!contains::<V4, _>(&sim, set, id + 1));
    }
    assert!(!contains::<V4, _>(&sim, set, 0));
}

#[test]
fn a_backend_removed_a_moment_ago_is_stepped_over() {
    let sim = Sim::new(8);
    let ids: Vec<u32> = (0..8).map(|n| sim.v4.add_backend(V4::addr(200 + n), 80, 6, true)).collect();
    let set = sim.set(&ids);
    for id in &ids[..3] {
        sim.v4.remove_backend(*id);
    }
    // Every hash leads to a live one; so does one that points at the last slot before the removed ones.
    for hash in (0..=u32::MAX).step_by(1 << 24) {
        let (id, _) = backend::<V4, _>(&sim, set, hash, 6).expect("five are alive");
        assert!(!ids[..3].contains(&id));
    }
    ids.iter().for_each(|id| sim.v4.remove_backend(*id));
    assert_eq!(backend::<V4, _>(&sim, set, 7, 6).err(), Some(Reason::Inconsistent));
    assert_eq!(backend::<V4, _>(&sim, SetRef::default(), 7, 6).err(), Some(Reason::Inconsistent));
}
