//! The objects of `deploy/demo`, and the changes that Kubernetes' controllers would make to them.
//!
//! The files are served as they are. [`Example::read`] checks that they describe pods of the demo's cluster, so
//! that an edited file fails with a reason and not with requests that nobody answers.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use apiserver::manifests;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Pod};

/// A pod of the Service: its name there, and where it is in the cluster.
#[derive(Debug, Clone)]
pub struct Member {
    /// The name in the EndpointSlices, such as `web-1`.
    pub name: String,
    /// The pod of the cluster.
    pub pod: Pod,
}

/// The example: one dual-stack NodePort Service with its EndpointSlices.
#[derive(Debug, Clone)]
pub struct Example {
    /// The Service object.
    pub service: Value,
    /// The EndpointSlices, one per family.
    pub slices: Vec<Value>,
    /// `namespace/name` of the Service.
    pub name: String,
    /// The clusterIPs.
    pub cluster_ips: Vec<IpAddr>,
    /// The port of the clusterIPs.
    pub port: u16,
    /// The port of the pods.
    pub target_port: u16,
    /// The port of the nodes.
    pub node_port: u16,
    /// Its pods, in the order of the files.
    pub members: Vec<Member>,
}

impl Example {
    /// Reads the objects and finds the pods they name in `cluster`.
    pub fn read(dir: &Path, cluster: &Cluster) -> Result<Self> {
        let objects = manifests::read_dir(dir).with_context(|| {
            format!("the demo's objects in {} (run it from the repository)", dir.display())
        })?;
        let of_kind = |kind: &str| objects.iter().filter(|o| o["kind"] == kind).cloned().collect::<Vec<_>>();
        let services = of_kind("Service");
        let [service] = &services[..] else {
            bail!("{} holds {} Services; the demo shows one", dir.display(), services.len());
        };
        let slices = of_kind("EndpointSlice");
        let metadata = |field: &str| service["metadata"][field].as_str().unwrap_or("default").to_owned();
        let cluster_ips = strings(&service["spec"]["clusterIPs"])
            .map(|ip| ip.parse().with_context(|| format!("clusterIP {ip}")))
            .collect::<Result<Vec<IpAddr>>>()?;
        ensure!(cluster_ips.len() == 2, "the demo's Service has a clusterIP of each family");
        let port = |pointer: &str| {
            let value = service.pointer(pointer).and_then(Value::as_u64);
            value.and_then(|port| u16::try_from(port).ok()).with_context(|| format!("no port at {pointer}"))
        };
        Ok(Self {
            name: format!("{}/{}", metadata("namespace"), metadata("name")),
            port: port("/spec/ports/0/port")?,
            target_port: port("/spec/ports/0/targetPort")?,
            node_port: port("/spec/ports/0/nodePort")?,
            members: members(&slices, cluster)?,
            service: service.clone(),
            slices,
            cluster_ips,
        })
    }

    /// The name of the pod with this address, if it is one of `members`.
    pub fn name_of(&self, address: IpAddr) -> Option<&str> {
        let found = self.members.iter().find(|member| member.pod.address.both().contains(&address));
        found.map(|member| member.name.as_str())
    }

    /// Marks a pod as terminating: it still serves, but gets nothing new.
    pub fn terminate(&mut self, name: &str) {
        for endpoint in self.slices.iter_mut().flat_map(endpoints) {
            if endpoint["targetRef"]["name"] == name {
                endpoint["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
            }
        }
    }

    /// Takes a pod out of the slices.
    pub fn remove(&mut self, name: &str) {
        for list in self.slices.iter_mut().filter_map(|slice| slice["endpoints"].as_array_mut()) {
            list.retain(|endpoint| endpoint["targetRef"]["name"] != name);
        }
        self.members.retain(|member| member.name != name);
    }

    /// Adds a pod that is ready.
    pub fn add(&mut self, name: &str, pod: &Pod) {
        for slice in &mut self.slices {
            let [v4, v6] = pod.address.both();
            let address = if slice["addressType"] == "IPv6" { v6 } else { v4 };
            let endpoint = json!({
                "addresses": [address.to_string()],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": pod.node_name,
                "targetRef": {"kind": "Pod", "namespace": "default", "name": name},
            });
            if let Some(list) = slice["endpoints"].as_array_mut() {
                list.push(endpoint);
            }
        }
        self.members.push(Member { name: name.to_owned(), pod: pod.clone() });
    }

    /// All objects.
    pub fn objects(&self) -> impl Iterator<Item = &Value> {
        [&self.service].into_iter().chain(&self.slices)
    }
}

fn members(slices: &[Value], cluster: &Cluster) -> Result<Vec<Member>> {
    let mut members: Vec<Member> = Vec::new();
    for endpoint in slices.iter().filter_map(|slice| slice["endpoints"].as_array()).flatten() {
        let name = endpoint["targetRef"]["name"].as_str().context("an endpoint without targetRef.name")?;
        for address in strings(&endpoint["addresses"]) {
            let parsed: IpAddr = address.parse().with_context(|| format!("address {address} of {name}"))?;
            let pod = cluster.pods().iter().find(|pod| pod.address.both().contains(&parsed));
            let pod =
                pod.with_context(|| format!("{name} has the address {address}, which no pod here has"))?;
            ensure!(
                endpoint["nodeName"] == pod.node_name.as_str(),
                "{address} of {name} is on {}, not on {}",
                pod.node_name,
                endpoint["nodeName"]
            );
            match members.iter().find(|member| member.name == name) {
                Some(known) => ensure!(known.pod.name == pod.name, "{name} has addresses of two pods"),
                None => members.push(Member { name: name.to_owned(), pod: pod.clone() }),
            }
        }
    }
    ensure!(members.len() >= 2, "the demo needs at least two pods behind its Service");
    Ok(members)
}

fn endpoints(slice: &mut Value) -> impl Iterator<Item = &mut Value> {
    slice["endpoints"].as_array_mut().into_iter().flatten()
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}
