//! Conversion of single objects, row by row of the Service contract (O1 to O8, M1 to M10, E1 to E4).

use std::net::IpAddr;

use lb_user::kube::convert::{self, Converted, Selection};
use lb_user::model::{Endpoint, Family, Problem, Proto, Service, Slice};
use serde_json::{Value, json};

fn service_json(spec: Value) -> Value {
    json!({"metadata": {"namespace": "default", "name": "web", "uid": "u-1"}, "spec": spec})
}

/// A plain Service, with `change` on top of its spec.
fn service(change: Value) -> Converted<Service> {
    let mut spec = json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ipFamilies": ["IPv4"],
                          "ports": [{"name": "http", "port": 80}]});
    if let (Value::Object(spec), Value::Object(change)) = (&mut spec, change) {
        spec.extend(change);
    }
    convert::service(&service_json(spec), &Selection::default())
}

fn slice_json(change: Value) -> Value {
    let mut slice = json!({
        "metadata": {"namespace": "default", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.1"]}],
    });
    if let (Value::Object(slice), Value::Object(change)) = (&mut slice, change) {
        slice.extend(change);
    }
    slice
}

fn slice(change: Value) -> Converted<Slice> {
    convert::slice(&slice_json(change), &Selection::default())
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn fields<T>(converted: &Converted<T>) -> Vec<&str> {
    converted.problems.iter().map(|problem| problem.field.as_str()).collect()
}

fn nothing<T>(converted: Converted<T>) -> bool {
    converted.value.is_none() && converted.problems.is_empty()
}

#[test]
fn o1_o2_labels_take_services_and_slices_away_whatever_their_value() {
    for label in [convert::LABEL_SERVICE_PROXY_NAME, convert::LABEL_HEADLESS] {
        for value in ["", "false", "other"] {
            let mut object = service_json(json!({"clusterIP": "10.96.0.1"}));
            object["metadata"]["labels"] = json!({label: value});
            assert!(nothing(convert::service(&object, &Selection::default())), "{label}={value}");
            let mut object = slice_json(json!({}));
            object["metadata"]["labels"][label] = value.into();
            assert!(nothing(convert::slice(&object, &Selection::default())), "{label}={value}");
        }
    }
}

#[test]
fn o1_a_configured_proxy_name_selects_exactly_that_label() {
    let selection = Selection { service_proxy_name: Some("fairway".into()) };
    let labelled = |value: Option<&str>| {
        let mut object = service_json(json!({"clusterIP": "10.96.0.1"}));
        if let Some(value) = value {
            object["metadata"]["labels"] = json!({convert::LABEL_SERVICE_PROXY_NAME: value});
        }
        convert::service(&object, &selection).value.is_some()
    };
    assert_eq!([labelled(Some("fairway")), labelled(Some("other")), labelled(None)], [true, false, false]);
}

#[test]
fn o3_headless_services_are_skipped() {
    for cluster_ip in [json!("None"), json!(""), Value::Null] {
        assert!(nothing(service(json!({"clusterIP": cluster_ip}))));
    }
}

#[test]
fn o4_external_name_is_skipped_even_with_a_stale_cluster_ip() {
    assert!(nothing(service(json!({"type": "ExternalName", "externalName": "example.org"}))));
}

#[test]
fn o5_the_node_gives_internal_and_external_addresses_and_its_zone() {
    let node = convert::node(&json!({
        "metadata": {"name": "node-a", "labels": {"topology.kubernetes.io/zone": "z1"}},
        "status": {"addresses": [
            {"type": "Hostname", "address": "node-a"},
            {"type": "InternalIP", "address": "192.0.2.1"},
            {"type": "InternalIP", "address": "2001:db8::1"},
            {"type": "ExternalIP", "address": "198.51.100.7"},
            {"type": "InternalIP", "address": "nonsense"},
        ]},
    }));
    assert_eq!(fields(&node), ["status.addresses[4].address"]);
    let node = node.value.unwrap();
    assert_eq!(node.addresses, ips(&["192.0.2.1", "2001:db8::1", "198.51.100.7"]));
    assert_eq!(node.zone.as_deref(), Some("z1"));
}

#[test]
fn o5_the_node_gives_its_pod_networks_and_whether_it_is_leaving() {
    let node = |change: Value| {
        let mut node = json!({"metadata": {"name": "node-a"}, "spec": {}});
        if let (Value::Object(node), Value::Object(change)) = (&mut node, change) {
            node.extend(change);
        }
        convert::node(&node)
    };
    let nets = |converted: &Converted<lb_user::model::NodeObject>| {
        let nets = &converted.value.as_ref().unwrap().pod_cidrs;
        nets.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let both =
        node(json!({"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "x", "fd01::/64"]}}));
    assert_eq!(
        (nets(&both), fields(&both)),
        (vec!["10.1.0.0/24".into(), "fd01::/64".into()], vec!["spec.podCIDRs[1]"])
    );
    assert_eq!(nets(&node(json!({"spec": {"podCIDR": "10.1.0.0/24"}}))), ["10.1.0.0/24"]);
    let leaving = |converted: Converted<lb_user::model::NodeObject>| converted.value.unwrap().leaving;
    assert!(!leaving(node(json!({"spec": {"taints": [{"key": "other", "effect": "NoSchedule"}]}}))));
    assert!(leaving(node(json!({"spec": {"taints": [
        {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}}))));
    assert!(leaving(node(json!({"metadata": {"name": "node-a",
                                             "deletionTimestamp": "2026-01-02T03:04:05Z"}}))));
}

#[test]
fn o6_a_service_cidr_gives_its_networks() {
    let converted = convert::service_cidr(&json!({
        "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/12", "nonsense", "fd00:10::/108"]}}));
    assert_eq!(fields(&converted), ["spec.cidrs[1]"]);
    let nets: Vec<String> = converted.value.unwrap().cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.96.0.0/12", "fd00:10::/108"]);
}

#[test]
fn o8_fqdn_slices_are_ignored() {
    assert!(nothing(slice(json!({"addressType": "FQDN", "endpoints": [{"addresses": ["example.org"]}]}))));
}

#[test]
fn m1_ports_of_one_number_and_different_protocols_are_distinct() {
    let converted = service(json!({"ports": [
        {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]}));
    assert_eq!(fields(&converted), [""; 0]);
    let ports = converted.value.unwrap().ports;
    assert_eq!(
        ports.iter().map(|port| (port.proto, port.port)).collect::<Vec<_>>(),
        [(Proto::Udp, 53), (Proto::Tcp, 53)]
    );
    assert_eq!(ports[0].node_port, 30053);
}

#[test]
fn m1_a_wrong_port_is_left_out_and_named_and_the_others_stay() {
    let converted = service(json!({"ports": [
        {"name": "sctp", "port": 1, "protocol": "SCTP"},
        {"name": "odd", "port": 2, "protocol": "QUIC"},
        {"name": "zero", "port": 0},
        {"name": "huge", "port": 65536},
        {"name": "good", "port": 80, "nodePort": -1},
        {"name": "good", "port": 81},
        {"name": "again", "port": 80},
    ]}));
    assert_eq!(
        fields(&converted),
        [
            "spec.ports[0].protocol",
            "spec.ports[1].protocol",
            "spec.ports[2].port",
            "spec.ports[3].port",
            "spec.ports[4].nodePort",
            "spec.ports[5].name",
            "spec.ports[6].port",
        ]
    );
    assert!(converted.problems[0].message.contains("not supported yet"));
    let ports = converted.value.unwrap().ports;
    assert_eq!((ports.len(), ports[0].port, ports[0].node_port), (1, 80, 0));
}

#[test]
fn m2_each_family_gets_the_cluster_ip_at_its_index() {
    let both = service(json!({"clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"]}));
    assert_eq!(both.value.unwrap().cluster_ips, ips(&["10.96.0.1", "fd00::1"]));
    let derived = service(json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"], "ipFamilies": []}));
    assert_eq!(derived.value.unwrap().cluster_ips, ips(&["fd00::1"]));
    let crossed = service(json!({"clusterIPs": ["10.96.0.1", "10.96.0.2"], "ipFamilies": ["IPv4", "IPv6"]}));
    assert_eq!(fields(&crossed), ["spec.clusterIPs[1]"]);
    assert_eq!(crossed.value.unwrap().cluster_ips, ips(&["10.96.0.1"]));
}

#[test]
fn m3_external_ips_that_do_not_parse_are_left_out() {
    let converted =
        service(json!({"externalIPs": ["198.51.100.1", "nonsense", "2001:db8::1", "127.0.0.1", "0.0.0.0"]}));
    assert_eq!(fields(&converted), ["spec.externalIPs[1]", "spec.externalIPs[3]", "spec.externalIPs[4]"]);
    assert_eq!(converted.value.unwrap().external_ips, ips(&["198.51.100.1", "2001:db8::1"]));
}

#[test]
fn m4_load_balancer_addresses_are_ips_of_mode_vip() {
    let mut object = service_json(json!({"clusterIP": "10.96.0.1", "loadBalancerIP": "198.51.100.9"}));
    object["status"] = json!({"loadBalancer": {"ingress": [
        {"ip": "198.51.100.1"},
        {"ip": "198.51.100.2", "ipMode": "VIP"},
        {"ip": "198.51.100.3", "ipMode": "Proxy"},
        {"hostname": "lb.example.org"},
        {"ip": "nonsense"},
    ]}});
    let converted = convert::service(&object, &Selection::default());
    assert_eq!(fields(&converted), ["status.loadBalancer.ingress[4].ip"]);
    assert_eq!(converted.value.unwrap().load_balancer_ips, ips(&["198.51.100.1", "198.51.100.2"]));
}

#[test]
fn m5_source_ranges_are_trimmed_and_canonical_and_wrong_ones_left_out() {
    let converted = service(json!({"type": "LoadBalancer", "loadBalancerSourceRanges":
        [" 198.51.100.7/24 ", "nonsense", "2001:db8::/32", "10.0.0.0/33", "198.51.100.0/24"]}));
    let named: Vec<String> = [1, 3].map(|i| format!("spec.loadBalancerSourceRanges[{i}]")).to_vec();
    assert_eq!(fields(&converted), named);
    let ranges: Vec<String> =
        converted.value.unwrap().source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["198.51.100.0/24", "2001:db8::/32"]);
}

#[test]
fn m6_the_health_check_port_belongs_to_a_load_balanced_service_of_policy_local() {
    let port = |kind: &str, policy: &str, port: i64| {
        let converted = service(json!({"type": kind, "externalTrafficPolicy": policy,
                                       "healthCheckNodePort": port}));
        let problem = fields(&converted).first().map(ToString::to_string);
        (converted.value.unwrap().health_check_node_port, problem)
    };
    let wrong = Some("spec.healthCheckNodePort".to_string());
    assert_eq!(port("LoadBalancer", "Local", 32_000), (32_000, None));
    assert_eq!(port("LoadBalancer", "Local", 0), (0, wrong.clone()));
    assert_eq!(port("LoadBalancer", "Local", 70_000), (0, wrong));
    assert_eq!(port("LoadBalancer", "Cluster", 32_000), (0, None));
    assert_eq!(port("NodePort", "Local", 32_000), (0, None));
}

#[test]
fn m7_the_external_policy_means_nothing_where_nothing_outside_comes_in() {
    let local = |change: Value| service(change).value.unwrap().external_local;
    let policy = "externalTrafficPolicy";
    assert!(!local(json!({"type": "ClusterIP", policy: "Local"})));
    assert!(local(json!({"type": "ClusterIP", policy: "Local", "externalIPs": ["198.51.100.1"]})));
    assert!(local(json!({"type": "NodePort", policy: "Local"})));
}

#[test]
fn m10_policies_and_affinity_have_kubernetes_defaults() {
    let plain = service(json!({})).value.unwrap();
    assert_eq!((plain.internal_local, plain.external_local, plain.affinity_timeout_s), (false, false, None));
    let local = service(json!({"type": "NodePort", "internalTrafficPolicy": "Local",
                               "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP"}));
    let local = local.value.unwrap();
    assert_eq!(
        (local.internal_local, local.external_local, local.affinity_timeout_s),
        (true, true, Some(10_800))
    );
    let affinity = |timeout: i64| {
        service(json!({"sessionAffinity": "ClientIP",
                       "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": timeout}}}))
    };
    assert_eq!(affinity(5).value.unwrap().affinity_timeout_s, Some(5));
    assert_eq!(fields(&affinity(86_401)), ["spec.sessionAffinityConfig.clientIP.timeoutSeconds"]);
}

#[test]
fn m11_the_age_for_collisions_is_read() {
    let mut object = service_json(json!({"clusterIP": "10.96.0.1"}));
    object["metadata"]["creationTimestamp"] = "2026-01-02T03:04:05Z".into();
    let converted = convert::service(&object, &Selection::default()).value.unwrap();
    assert_eq!((converted.created_unix_s, converted.uid.as_str()), (1_767_323_045, "u-1"));
}

#[test]
fn e1_slices_without_a_service_are_ignored() {
    assert!(nothing(slice(json!({"metadata": {"namespace": "default", "name": "web-1"}}))));
    assert_eq!(&*slice(json!({})).value.unwrap().service, "web");
}

#[test]
fn e2_only_the_first_address_counts_canonical_and_of_the_slices_family() {
    let converted = slice(json!({"addressType": "IPv6", "endpoints": [
        {"addresses": ["2001:DB8:0::1", "2001:db8::2"]},
        {"addresses": []},
        {"addresses": ["10.0.0.1"]},
        {"addresses": ["nonsense"]},
        {"addresses": ["fe80::1"]},
        {"addresses": ["::ffff:10.0.0.1"]},
    ]}));
    let expected: Vec<String> = (2..6).map(|index| format!("endpoints[{index}].addresses[0]")).collect();
    assert_eq!(fields(&converted), expected);
    let slice = converted.value.unwrap();
    assert_eq!(slice.family, Family::V6);
    assert_eq!(slice.endpoints.iter().map(|each| each.addr).collect::<Vec<_>>(), ips(&["2001:db8::1"]));
}

#[test]
fn e3_ports_without_name_or_number_are_left_out() {
    let converted = slice(json!({"ports": [
        {"port": 1},
        {"name": "all"},
        {"name": "zero", "port": 0},
        {"name": "sctp", "port": 3, "protocol": "SCTP"},
        {"name": "", "port": 8080},
    ]}));
    assert_eq!(fields(&converted), ["ports[0].name", "ports[1].port", "ports[2].port", "ports[3].protocol"]);
    let ports = converted.value.unwrap().ports;
    assert_eq!((ports.len(), &*ports[0].name, ports[0].port), (1, "", 8080));
}

#[test]
fn e4_missing_conditions_mean_ready_serving_and_not_terminating() {
    let converted = slice(json!({"endpoints": [
        {"addresses": ["10.0.0.1"]},
        {"addresses": ["10.0.0.2"], "nodeName": "node-a", "conditions": {"ready": false, "terminating": true},
         "hints": {"forZones": [{"name": "z1"}], "forNodes": [{"name": "node-a"}]}},
    ]}));
    let endpoints = converted.value.unwrap().endpoints;
    let conditions = |each: &Endpoint| (each.ready, each.serving, each.terminating);
    assert_eq!(
        endpoints.iter().map(conditions).collect::<Vec<_>>(),
        [(true, true, false), (false, true, true)]
    );
    assert_eq!(endpoints[1].node_name.as_deref(), Some("node-a"));
    assert_eq!(
        (endpoints[1].hint_zones(), endpoints[1].hint_nodes()),
        (&["z1".into()][..], &["node-a".into()][..])
    );
}

#[test]
fn names_may_begin_with_a_digit() {
    let mut object = service_json(json!({"clusterIP": "10.96.0.1"}));
    object["metadata"]["name"] = "1st".into();
    assert_eq!(&*convert::service(&object, &Selection::default()).value.unwrap().key.name, "1st");
}

#[test]
fn what_is_no_object_or_has_a_field_of_a_wrong_type_is_named() {
    let problem = |json: Value| -> Problem {
        let converted = convert::service(&json, &Selection::default());
        assert_eq!((converted.value, converted.problems.len()), (None, 1), "{json}");
        converted.problems[0].clone()
    };
    assert_eq!(problem(json!("garbage")).object, "Service without a name");
    assert_eq!(problem(json!(null)).message, "is not an object");
    let wrong =
        problem(service_json(json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}, {"port": "eighty"}]})));
    assert_eq!((wrong.object.as_str(), wrong.field.as_str()), ("Service default/web", "spec.ports[1].port"));
    assert_eq!(
        problem(json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.96.0.1"}})).field,
        "metadata"
    );
}

#[test]
fn s45_conditions_that_do_not_parse_take_no_service_away() {
    let mut json = service_json(json!({"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]}));
    json["status"] = json!({
        "loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]},
        "conditions": [{"type": "StatusUpdate", "status": "True", "lastTransitionTime": null}],
    });
    let converted = convert::service(&json, &Selection::default());
    assert!(converted.problems.is_empty(), "{:?}", converted.problems);
    assert_eq!(converted.value.expect("a Service").load_balancer_ips, ips(&["203.0.113.1"]));
}

#[test]
fn every_single_mutilation_of_good_objects_is_survived() {
    let good = [
        serde_json::to_value(service_json(json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
            "ipFamilies": ["IPv4"], "externalIPs": ["198.51.100.1"], "type": "LoadBalancer",
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000,
            "loadBalancerSourceRanges": ["10.0.0.0/8"], "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}},
            "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}]})))
        .unwrap(),
        json!({"metadata": {"name": "n"}, "spec": {"cidrs": ["10.96.0.0/12"], "podCIDR": "10.1.0.0/24",
               "podCIDRs": ["10.1.0.0/24"], "taints": [{"key": "k", "effect": "NoSchedule"}]}}),
        slice_json(json!({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true},
            "hints": {"forZones": [{"name": "z1"}]}}]})),
    ];
    let junk =
        [json!(null), json!(-1), json!(1e300), json!("\u{0}"), json!([[]]), json!({"": {}}), json!(true)];
    for object in good {
        for path in paths(&object, "") {
            for junk in &junk {
                let mut mutilated = object.clone();
                *mutilated.pointer_mut(&path).unwrap() = junk.clone();
                convert::service(&mutilated, &Selection::default());
                convert::slice(&mutilated, &Selection::default());
                convert::node(&mutilated);
                convert::service_cidr(&mutilated);
                convert::fill_defaults(&mut mutilated);
            }
        }
    }
}

/// All JSON pointers of a value.
fn paths(value: &Value, prefix: &str) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => {
            map.iter().map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value)).collect()
        }
        Value::Array(list) => {
            list.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
        }
        _ => Vec::new(),
    };
    let below = children.into_iter().flat_map(|(step, value)| paths(value, &format!("{prefix}/{step}")));
    std::iter::once(prefix.to_owned()).chain(below).collect()
}
