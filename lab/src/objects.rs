//! The Kubernetes objects that describe a cluster, as JSON for an API server and as manifests for an agent.
//!
//! Services are dual-stack; each family has an EndpointSlice of its own, as Kubernetes makes them. Manifests
//! are written as JSON documents, which is YAML; a file is replaced in one step, so a reader never sees half.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::address::Dual;
use crate::cluster::{Cluster, Pod};
use crate::node::Node;
use crate::plumbing;

/// The namespace of every object made here.
pub const NAMESPACE: &str = "default";

/// What an EndpointSlice says of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Ready,
    NotReady,
    Terminating,
}

/// Describes one Service and its endpoints.
#[derive(Debug, Clone)]
pub struct ServiceBuilder {
    name: String,
    cluster_ip: Dual,
    port: u16,
    target: u16,
    node_port: Option<u16>,
    protocols: Vec<&'static str>,
    endpoints: Vec<(Pod, Condition)>,
    fields: Vec<(String, Value)>,
}

impl ServiceBuilder {
    pub(crate) fn new(name: &str, cluster_ip: Dual) -> Self {
        Self {
            name: name.to_owned(),
            cluster_ip,
            port: 80,
            target: 80,
            node_port: None,
            protocols: vec!["TCP", "UDP"],
            endpoints: Vec::new(),
            fields: Vec::new(),
        }
    }

    /// The port of its clusterIPs; 80 unless told.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The pods' port; 80 unless told.
    #[must_use]
    pub fn target(mut self, port: u16) -> Self {
        self.target = port;
        self
    }

    /// Makes it a NodePort Service, with this port for TCP and UDP.
    #[must_use]
    pub fn node_port(mut self, port: u16) -> Self {
        self.node_port = Some(port);
        self
    }

    /// TCP only; TCP and UDP unless told.
    #[must_use]
    pub fn tcp_only(mut self) -> Self {
        self.protocols = vec!["TCP"];
        self
    }

    /// Adds ready endpoints.
    #[must_use]
    pub fn pods<'a>(self, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        self.endpoints(pods, Condition::Ready)
    }

    /// Adds endpoints that are not ready.
    #[must_use]
    pub fn unready_pods<'a>(self, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        self.endpoints(pods, Condition::NotReady)
    }

    /// Adds endpoints that terminate but still serve.
    #[must_use]
    pub fn terminating_pods<'a>(self, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        self.endpoints(pods, Condition::Terminating)
    }

    /// Sets a field of the Service's `spec`, such as `externalTrafficPolicy`.
    #[must_use]
    pub fn spec_field(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.fields.push((field.to_owned(), value.into()));
        self
    }

    /// The clusterIPs.
    pub fn cluster_ip(&self) -> Dual {
        self.cluster_ip
    }

    /// The Service object.
    pub fn service(&self) -> Value {
        let port = |protocol: &&str| {
            let mut port = json!({
                "name": protocol.to_lowercase(), "protocol": protocol, "port": self.port, "targetPort": self.target,
            });
            if let Some(node_port) = self.node_port {
                port["nodePort"] = node_port.into();
            }
            port
        };
        let addresses = self.cluster_ip.both().map(|address| address.to_string());
        let mut service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": NAMESPACE, "labels": {"app": self.name}},
            "spec": {
                "type": if self.node_port.is_some() { "NodePort" } else { "ClusterIP" },
                "clusterIP": addresses[0],
                "clusterIPs": addresses,
                "ipFamilies": ["IPv4", "IPv6"],
                "ipFamilyPolicy": "RequireDualStack",
                "selector": {"app": self.name},
                "ports": self.protocols.iter().map(port).collect::<Vec<_>>(),
            },
        });
        for (field, value) in &self.fields {
            service["spec"][field] = value.clone();
        }
        service
    }

    /// The EndpointSlices, one for each family.
    pub fn slices(&self) -> Vec<Value> {
        vec![
            self.slice("IPv4", |pod| pod.address.v4.to_string()),
            self.slice("IPv6", |pod| pod.address.v6.to_string()),
        ]
    }

    /// The Service and its EndpointSlices.
    pub fn objects(&self) -> Vec<Value> {
        [vec![self.service()], self.slices()].concat()
    }

    fn endpoints<'a>(mut self, pods: impl IntoIterator<Item = &'a Pod>, condition: Condition) -> Self {
        self.endpoints.extend(pods.into_iter().map(|pod| (pod.clone(), condition)));
        self
    }

    fn slice(&self, family: &str, address: impl Fn(&Pod) -> String) -> Value {
        let endpoint = |(pod, condition): &(Pod, Condition)| {
            json!({
                "addresses": [address(pod)],
                "conditions": {
                    "ready": *condition == Condition::Ready,
                    "serving": *condition != Condition::NotReady,
                    "terminating": *condition == Condition::Terminating,
                },
                "nodeName": pod.node_name,
                "targetRef": {"kind": "Pod", "name": pod.name, "namespace": NAMESPACE},
            })
        };
        let port = |protocol: &&str| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": self.target});
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{}", self.name, family.to_lowercase()),
                "namespace": NAMESPACE,
                "labels": {
                    "kubernetes.io/service-name": self.name,
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                },
            },
            "addressType": family,
            "endpoints": self.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
            "ports": self.protocols.iter().map(port).collect::<Vec<_>>(),
        })
    }
}

impl Node {
    /// The Node object.
    pub fn object(&self) -> Value {
        let ranges = plumbing::ranges(self.number());
        let addresses =
            self.address().both().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}));
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": self.name(),
                "labels": {
                    "kubernetes.io/hostname": self.name(),
                    "topology.kubernetes.io/zone": format!("zone-{}", self.number()),
                },
            },
            "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
            "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": "True"}]},
        })
    }
}

/// A directory of manifests, for `fairway run --manifests`.
#[derive(Debug, Clone)]
pub struct ManifestDir(PathBuf);

impl ManifestDir {
    /// A directory inside the cluster's own, with `nodes.yaml` in it; removed with the cluster.
    pub fn new(cluster: &Cluster) -> Result<Self> {
        let dir = Self(cluster.dir().join("manifests"));
        fs::create_dir_all(&dir.0)?;
        dir.write("nodes", &cluster.nodes().iter().map(Node::object).collect::<Vec<_>>())?;
        Ok(dir)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Replaces `<name>.yaml` by these objects, in one step.
    pub fn write(&self, name: &str, objects: &[Value]) -> Result<()> {
        let documents: Vec<String> =
            objects.iter().map(serde_json::to_string_pretty).collect::<Result<_, _>>()?;
        self.write_text(name, &format!("---\n{}\n", documents.join("\n---\n")))
    }

    /// Replaces `<name>.yaml` by this text, which may be broken on purpose.
    pub fn write_text(&self, name: &str, text: &str) -> Result<()> {
        let (path, new) = (self.file(name), self.0.join(format!(".{name}.new")));
        fs::write(&new, text)?;
        fs::rename(&new, &path).with_context(|| format!("write {}", path.display()))
    }

    /// Replaces `<service name>.yaml` by the Service and its EndpointSlices.
    pub fn apply(&self, service: &ServiceBuilder) -> Result<()> {
        self.write(&service.name, &service.objects())
    }

    /// Removes `<name>.yaml`.
    pub fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.file(name)).with_context(|| format!("remove {name}.yaml"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.yaml"))
    }
}
