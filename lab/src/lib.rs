//! Clusters from network namespaces, in domain words: client, node, pod.
//!
//! [`Cluster::build`] turns a [`ClusterSpec`] into one outside client, a switch, nodes and pods, each in a
//! network namespace of its own, dual-stack, joined the way a CNI plugin would join them. Every node has a
//! private bpffs, a state directory and a cgroup. [`Node::start_agent`] runs the real `fairway` binary on a
//! node; [`traffic`] has real servers and clients; [`objects`] writes the Kubernetes objects that describe the
//! cluster.
//!
//! Invariants: needs root and says so; names carry the process id, so parallel runs never meet; everything is
//! removed when the [`Cluster`] is dropped, also by a panic, and [`residue`] finds what a killed run left.

pub mod address;
pub mod agent;
pub mod cluster;
pub mod confine;
pub mod demo;
pub mod grow;
pub mod node;
pub mod ns;
pub mod objects;
pub mod objects_extra;
mod offload;
mod plumbing;
pub mod residue;
pub mod spec;
pub mod traffic;

pub use agent::{Agent, AgentSpec, Source};
pub use cluster::{Cluster, Pod};
pub use node::Node;
pub use ns::Ns;
pub use objects::{Conditions, Endpoint, ManifestDir, ServiceBuilder, ServicePort};
pub use spec::{ClusterSpec, Cni, InterNode, Masquerade};
