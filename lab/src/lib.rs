//! Clusters from network namespaces.
