//! The Kubernetes objects that describe a cluster, as JSON for an API server and as manifests for an agent.
//!
//! Services are dual-stack; each family has an EndpointSlice of its own, as Kubernetes makes them. Manifests
//! are written as JSON documents, which is YAML; a file is replaced in one step, so a reader never sees half.

mod parts;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::address::Dual;
use crate::cluster::{Cluster, Pod};
use crate::node::Node;
use crate::plumbing;

pub use parts::{Conditions, Endpoint, ServicePort};

/// The namespace of every object made here.
pub const NAMESPACE: &str = "default";

/// Describes one Service and its endpoints.
#[derive(Debug, Clone)]
pub struct ServiceBuilder {
    name: String,
    kind: Option<String>,
    cluster_ip: Dual,
    port: u16,
    target: u16,
    node_port: Option<u16>,
    protocols: Vec<&'static str>,
    ports: Vec<ServicePort>,
    endpoints: Vec<Endpoint>,
    labels: Vec<(String, String)>,
    annotations: Vec<(String, String)>,
    fields: Vec<(String, Value)>,
    vips: Vec<IpAddr>,
    slice_name: String,
    hand_made: bool,
}

impl ServiceBuilder {
    pub(crate) fn new(name: &str, cluster_ip: Dual) -> Self {
        Self {
            name: name.to_owned(),
            kind: None,
            cluster_ip,
            port: 80,
            target: 80,
            node_port: None,
            protocols: vec!["TCP", "UDP"],
            ports: Vec::new(),
            endpoints: Vec::new(),
            labels: Vec::new(),
            annotations: Vec::new(),
            fields: Vec::new(),
            vips: Vec::new(),
            slice_name: name.to_owned(),
            hand_made: false,
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

    /// Exactly these ports, instead of one number for TCP and UDP.
    #[must_use]
    pub fn ports(mut self, ports: impl IntoIterator<Item = ServicePort>) -> Self {
        self.ports = ports.into_iter().collect();
        self
    }

    /// Its type; unless told NodePort if it has a nodePort, else ClusterIP.
    #[must_use]
    pub fn kind(mut self, kind: &str) -> Self {
        self.kind = Some(kind.to_owned());
        self
    }

    /// Other clusterIPs than those of its name.
    #[must_use]
    pub fn cluster_ips(mut self, addresses: Dual) -> Self {
        self.cluster_ip = addresses;
        self
    }

    /// Its externalIPs.
    #[must_use]
    pub fn external_ips(self, addresses: Dual) -> Self {
        self.spec_field("externalIPs", addresses.both().map(|address| address.to_string()).to_vec())
    }

    /// Makes it a LoadBalancer Service that has been given these addresses.
    #[must_use]
    pub fn load_balancer(mut self, vips: impl IntoIterator<Item = IpAddr>) -> Self {
        self.vips = vips.into_iter().collect();
        self.kind("LoadBalancer")
    }

    /// Session affinity by client address, with this timeout.
    #[must_use]
    pub fn affinity(self, timeout_s: u32) -> Self {
        self.spec_field("sessionAffinity", "ClientIP")
            .spec_field("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": timeout_s}}))
    }

    /// One more label, also of its slices: the slice controller copies labels.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.push((name.to_owned(), value.to_owned()));
        self
    }

    /// One more annotation.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds ready endpoints.
    #[must_use]
    pub fn pods<'a>(self, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        self.pods_in(Conditions::READY, pods)
    }

    /// Adds endpoints that are not ready.
    #[must_use]
    pub fn unready_pods<'a>(self, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        self.pods_in(Conditions::NOT_READY, pods)
    }

    /// Adds endpoints that terminate but still serve.
    #[must_use]
    pub fn terminating_pods<'a>(self, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        self.pods_in(Conditions::TERMINATING, pods)
    }

    /// Adds endpoints in this condition.
    #[must_use]
    pub fn pods_in<'a>(self, conditions: Conditions, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        self.endpoints(pods.into_iter().map(|pod| Endpoint::pod(pod).conditions(conditions)))
    }

    /// Adds endpoints of any kind.
    #[must_use]
    pub fn endpoints(mut self, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        self.endpoints.extend(endpoints);
        self
    }

    /// Names its slices `<name>-ipv4` and `<name>-ipv6`: for a Service with several, described one by one.
    #[must_use]
    pub fn slice_name(mut self, name: &str) -> Self {
        self.slice_name = name.to_owned();
        self
    }

    /// No selector, and slices that nobody manages and that name neither nodes nor pods.
    #[must_use]
    pub fn hand_made(mut self) -> Self {
        self.hand_made = true;
        self
    }

    /// Sets a field of the Service's `spec`, such as `externalTrafficPolicy`.
    #[must_use]
    pub fn spec_field(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.fields.push((field.to_owned(), value.into()));
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The clusterIPs.
    pub fn cluster_ip(&self) -> Dual {
        self.cluster_ip
    }

    /// The Service object.
    pub fn service(&self) -> Value {
        let ports = self.effective_ports();
        let by_ports =
            if ports.iter().any(|port| port.node_port.is_some()) { "NodePort" } else { "ClusterIP" };
        let addresses = self.cluster_ip.both().map(|address| address.to_string());
        let mut service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": NAMESPACE, "labels": {"app": self.name}},
            "spec": {
                "type": self.kind.as_deref().unwrap_or(by_ports),
                "clusterIP": addresses[0],
                "clusterIPs": addresses,
                "ipFamilies": ["IPv4", "IPv6"],
                "ipFamilyPolicy": "RequireDualStack",
                "ports": ports.iter().map(ServicePort::in_service).collect::<Vec<_>>(),
            },
        });
        if !self.hand_made {
            service["spec"]["selector"] = json!({"app": self.name});
        }
        for (name, value) in &self.labels {
            service["metadata"]["labels"][name] = value.clone().into();
        }
        for (name, value) in &self.annotations {
            service["metadata"]["annotations"][name] = value.clone().into();
        }
        if !self.vips.is_empty() {
            let ingress: Vec<Value> = self.vips.iter().map(|vip| json!({"ip": vip.to_string()})).collect();
            service["status"]["loadBalancer"]["ingress"] = ingress.into();
        }
        for (field, value) in &self.fields {
            service["spec"][field] = value.clone();
        }
        service
    }

    /// The EndpointSlices, one for each family.
    pub fn slices(&self) -> Vec<Value> {
        ["IPv4", "IPv6"].map(|family| self.slice(family)).to_vec()
    }

    /// The Service and its EndpointSlices.
    pub fn objects(&self) -> Vec<Value> {
        [vec![self.service()], self.slices()].concat()
    }

    fn effective_ports(&self) -> Vec<ServicePort> {
        if !self.ports.is_empty() {
            return self.ports.clone();
        }
        let port = |protocol: &&'static str| {
            let port = ServicePort::of(&protocol.to_lowercase(), protocol, self.port).target(self.target);
            self.node_port.into_iter().fold(port, ServicePort::node_port)
        };
        self.protocols.iter().map(port).collect()
    }

    fn slice(&self, family: &str) -> Value {
        let endpoint = |endpoint: &Endpoint| endpoint.in_slice(family == "IPv4", self.hand_made);
        let mut slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{}", self.slice_name, family.to_lowercase()),
                "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": self.name},
            },
            "addressType": family,
            "endpoints": self.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
            "ports": self.effective_ports().iter().map(ServicePort::in_slice).collect::<Vec<_>>(),
        });
        if !self.hand_made {
            slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] =
                "endpointslice-controller.k8s.io".into();
        }
        for (name, value) in &self.labels {
            slice["metadata"]["labels"][name] = value.clone().into();
        }
        slice
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
