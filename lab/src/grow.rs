//! What joins a cluster after it was built: pods that a CNI plugin adds, and hosts beyond a router.
//!
//! Their namespaces carry the cluster's prefix, so they are removed with it.

use std::net::IpAddr;

use anyhow::{Context, Result};

use crate::address::{self, Dual};
use crate::cluster::{Cluster, Pod};
use crate::ns::Ns;
use crate::offload::complete_checksums;
use crate::plumbing;

impl Cluster {
    /// Adds an empty namespace `label`.
    pub fn add_namespace(&self, label: &str) -> Result<Ns> {
        let name = format!("{}-{label}", self.name());
        let made = std::process::Command::new("ip").args(["netns", "add", &name]).status()?;
        anyhow::ensure!(made.success(), "cannot add namespace {name}");
        let ns = Ns::open(&name)?;
        ns.sysctl(&plumbing::settings(false, 0))?;
        Ok(ns)
    }

    /// Adds pod `pod` to node `node`, wired as the pods that the cluster was built with.
    pub fn add_pod(&self, node: u8, pod: u8) -> Result<Pod> {
        let (spec, host) = (self.spec(), self.node(node.into()).ns());
        let name = plumbing::pod_name(node, pod);
        let ns = self.add_namespace(&name)?;
        let host_veth = plumbing::host_veth(node, pod);
        let mut text = format!("link add name {host_veth} type veth peer name eth0 netns {}\n", ns.name());
        plumbing::pod_of_node(&mut text, spec, node, pod);
        host.feed("ip", &["-batch", "-"], &text)?;
        ns.feed("ip", &["-batch", "-"], &plumbing::pod(spec, node, pod))?;
        Ok(Pod {
            name,
            node_name: plumbing::node_name(node),
            address: address::pod(node, pod),
            host_veth,
            ns,
        })
    }

    /// Adds a host `far` behind a router `router` that is on the switch. The router's routes have this MTU both ways,
    /// while every device has 1500: so it tells senders of larger packets what fits. The nodes know the way.
    pub fn add_far_host(&self, mtu: u16) -> Result<FarHost> {
        let (router, host) = (self.add_namespace("router")?, self.add_namespace("far")?);
        let forwarding = plumbing::settings(true, 0);
        router.sysctl(&forwarding)?;
        let (on_switch, near, far) = (address::router(), address::far(1), address::far(2));
        let run = format!("{}-", self.name());
        let cables = format!(
            "link add name sw-router type veth peer name eth0 netns {run}router\n\
             link set sw-router master br0 up\n"
        );
        self.control().feed("ip", &["-batch", "-"], &cables)?;
        let mut text =
            format!("link set lo up\nlink add name eth1 type veth peer name eth0 netns {run}far\n");
        plumbing::addresses(&mut text, "eth0", on_switch, 24, 64);
        plumbing::addresses(&mut text, "eth1", near, 24, 64);
        text += "link set eth0 up\nlink set eth1 up\n";
        for ip in far.both() {
            text += &format!("route add {ip} dev eth1 mtu lock {mtu}\n");
        }
        for node in self.nodes() {
            for ip in node.address().both() {
                text += &format!("route add {ip} dev eth0 mtu lock {mtu}\n");
            }
        }
        router.feed("ip", &["-batch", "-"], &text)?;
        let mut text = String::from("link set lo up\n");
        plumbing::addresses(&mut text, "eth0", far, 24, 64);
        text += "link set eth0 up\n";
        for via in near.both() {
            text += &format!("route add default via {via} dev eth0\n");
        }
        host.feed("ip", &["-batch", "-"], &text)?;
        if !self.spec().uplink_offload {
            host.run(|| complete_checksums("eth0"))??;
        }
        for node in self.nodes() {
            let route = |(ip, via): (IpAddr, IpAddr)| format!("route add {ip} via {via} dev eth0\n");
            let text: String = far.both().into_iter().zip(on_switch.both()).map(route).collect();
            node.ns().feed("ip", &["-batch", "-"], &text).context("routes to the far host")?;
        }
        Ok(FarHost { ns: host, router, address: far })
    }
}

/// A host beyond a router with a narrow way.
#[derive(Debug, Clone)]
pub struct FarHost {
    /// Its namespace.
    pub ns: Ns,
    /// The router's.
    pub router: Ns,
    /// Its addresses.
    pub address: Dual,
}
