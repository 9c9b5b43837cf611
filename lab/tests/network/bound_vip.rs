//! A load balancer's address that the node has itself, as MetalLB's peers bind it: on lo, on a device of its own, on the
//! uplink. Its Service's port is served; every other port is the host's own (spec R7).

use anyhow::{Context, Result};
use lab::ClusterSpec;
use lab::objects_extra::load_balanced;
use lab::traffic::PodServer;

use crate::support::Outcome::{Answered, Refused};
use crate::support::*;

const HOST_PORT: u16 = 9_090;

#[test]
fn a_bound_address_serves_its_port_and_leaves_the_others_to_the_host() -> Result<()> {
    let b =
        Bench::with(ClusterSpec::default(), |n| if n == 2 { vec!["--socket-lb", "off"] } else { vec![] })?;
    // Node 1 translates its own processes' sockets, node 2 their packets.
    for n in [1, 2] {
        let ns = b.node(n).ns();
        let add = |k, device| {
            let a = vip(k);
            format!("addr add {}/32 dev {device}\naddr add {}/128 dev {device} nodad\n", a.v4, a.v6)
        };
        // A bridge without ports is to the stack what a dummy device is, and exists in every kernel.
        ip(ns, &(add(1, "lo") + "link add vip0 type bridge\nlink set vip0 up\n"))?;
        ip(ns, &(add(2, "vip0") + &add(3, "eth0")))?;
    }
    let pods = ["pod-1-1", "pod-2-1"];
    let service = b.service("web", &[(1, 1), (2, 1)]);
    let vips = [1, 2, 3].map(vip);
    let addresses: Vec<_> = vips.iter().flat_map(|v| v.both()).collect();
    b.publish("web", &[vec![load_balanced(service.service(), &addresses)], service.slices()].concat())?;
    for n in [1, 2] {
        let (node, neighbour) = (b.node(n), b.pod(n, 2));
        let serve = |vip| PodServer::start_at(node.ns(), node.name(), vip, HOST_PORT);
        let _host = vips.map(serve).into_iter().collect::<Result<Vec<_>>>()?;
        route_vips(b.client(), node)?;
        let own = [node.address().both(), lab::address::gateway(node.number()).both()].concat();
        for vip in vips {
            let (served, hosts, nobodys) = (at(vip, PORT), at(vip, HOST_PORT), at(vip, HOST_PORT + 1));
            for from in [b.client(), &neighbour.ns, node.ns()] {
                let what = || format!("node-{n}, {} from {}", vip.v4, from.name());
                assert_pods(from, &served, &pods).with_context(what)?;
                assert_pods(from, &hosts, &[node.name()]).with_context(what)?;
                assert_all(from, &nobodys, Refused).with_context(what)?;
            }
            for dst in served {
                // Replies of a pod elsewhere can only come back to an address that is this node's alone.
                assert_source(b.client(), dst, |pod, src| {
                    let client = b.cluster.client_address().both().contains(&src);
                    if pod == format!("pod-{n}-1") { client } else { own.contains(&src) }
                })?;
            }
        }
    }
    // A third node without the address serves it as nobody's.
    route_vips(b.client(), b.node(3))?;
    vips.iter().try_for_each(|v| assert_all(b.client(), &at(*v, PORT), Answered))
}
