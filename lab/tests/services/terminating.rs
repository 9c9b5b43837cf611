//! Endpoints that are not ready, or about to end.

use crate::check::Sources;
use crate::prelude::*;

/// S21 and S22: the slice controller calls such endpoints ready, whatever else it says of them.
#[test]
fn s21_s22_endpoints_published_although_not_ready_are_served() -> Result<()> {
    let b = shared()?;
    let web = b.service("s22").node_port(30220).spec_field("publishNotReadyAddresses", true);
    let to = [b.cluster_ip("s22"), b.node_ports(30220)].concat();
    let unready = Conditions { ready: true, serving: false, terminating: false };
    for conditions in [unready, Conditions::PUBLISHED] {
        b.apply(&web.clone().pods_in(conditions, [b.cluster.pod(1, 1)]))?;
        hold(&b, "published", &expect(&b.everyone(), &to, pods([b.cluster.pod(1, 1)])))?;
        b.apply(&web)?;
        hold(&b, "gone", &expect(&b.everyone(), &to, Refused))?;
    }
    Ok(())
}

/// S23: not even as the last resort.
#[test]
fn s23_endpoints_that_are_not_ready_are_never_used() -> Result<()> {
    let b = shared()?;
    let web = b.service("s23").node_port(30230);
    let to = [b.cluster_ip("s23"), b.node_ports(30230)].concat();
    let serving_unready = Conditions { ready: false, serving: true, terminating: false };
    for conditions in [Conditions::NOT_READY, Conditions::TERMINATING_UNREADY, serving_unready] {
        b.apply(&web.clone().pods([b.cluster.pod(2, 1)]).pods_in(conditions, [b.cluster.pod(1, 1)]))?;
        hold(&b, "the ready one", &expect(&b.everyone(), &to, pods([b.cluster.pod(2, 1)])))?;
        b.apply(&web.clone().pods_in(conditions, [b.cluster.pod(1, 1)]))?;
        hold(&b, "none", &expect(&b.everyone(), &to, Refused))?;
    }
    Ok(())
}

/// S39 and S41.
#[test]
fn s39_s41_without_ready_endpoints_the_terminating_ones_serve() -> Result<()> {
    let b = shared()?;
    let web = b.service("s39").node_port(30390);
    let to = [b.cluster_ip("s39"), b.node_ports(30390)].concat();
    let ending = [b.cluster.pod(1, 1), b.cluster.pod(2, 1)];
    b.apply(&web.clone().terminating_pods(ending).pods([b.cluster.pod(2, 2)]))?;
    hold(&b, "a ready one", &expect(&b.everyone(), &to, pods([b.cluster.pod(2, 2)])))?;
    b.apply(&web.clone().terminating_pods(ending).unready_pods([b.cluster.pod(2, 2)]))?;
    hold(&b, "none ready", &expect(&b.everyone(), &to, pods(ending)))?;
    b.apply(&web)?;
    hold(&b, "none at all", &expect(&b.everyone(), &to, Refused))
}

/// S40, for pods and for processes of the nodes.
#[test]
fn s40_under_internal_policy_local_the_nodes_own_terminating_endpoint_serves() -> Result<()> {
    let b = shared()?;
    let web = b.service("s40").spec_field("internalTrafficPolicy", "Local");
    let to = b.cluster_ip("s40");
    b.apply(&web.clone().terminating_pods([b.cluster.pod(1, 1)]))?;
    let near = expect(&[b.pod(1, 2), b.host(1)], &to, pods([b.cluster.pod(1, 1)]));
    let far = expect(&[b.pod(2, 1), b.pod(3, 1), b.host(3), b.outside()], &to, Silent);
    hold(&b, "only terminating", &[near.clone(), far.clone()].concat())?;
    // A ready one elsewhere changes nothing here: the local set falls back by itself.
    b.apply(&web.terminating_pods([b.cluster.pod(1, 1)]).pods([b.cluster.pod(2, 1)]))?;
    let there = expect(&[b.pod(2, 2), b.host(2)], &to, pods([b.cluster.pod(2, 1)]));
    let nowhere = expect(&[b.pod(3, 1), b.host(3), b.outside()], &to, Silent);
    hold(&b, "a ready one on another node", &[near, there, nowhere].concat())
}

/// S42.
#[test]
fn s42_under_external_policy_local_the_nodes_own_terminating_endpoint_serves() -> Result<()> {
    let b = shared()?;
    let web = b.service("s42").node_port(30420).spec_field("externalTrafficPolicy", "Local");
    b.apply(&web.terminating_pods([b.cluster.pod(1, 1)]))?;
    let (here, elsewhere) = (b.node_port(1, 30420), b.node_port(3, 30420));
    let strangers = [b.outside(), b.host(2), b.pod(2, 1)];
    let served = expect(&strangers, &here, pods([b.cluster.pod(1, 1)])).keeping_the_source();
    hold(&b, "the endpoint's node", &[served, expect(&strangers, &elsewhere, Silent)].concat())?;
    // A node's own pods and processes are served from everywhere: for them the packet never left (F6 a and b).
    let own = expect(&[b.pod(3, 1), b.host(3)], &elsewhere, pods([b.cluster.pod(1, 1)]));
    hold(&b, "the node's own clients", &own)
}
