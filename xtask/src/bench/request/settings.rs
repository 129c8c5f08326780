//! How the other proxies are set up: one worker, warm connections to backends of one request at a
//! time each, the least loaded first, no retries, and the headers that ours adds. Pure.
//!
//! nginx has no queue in its free edition: what finds every backend taken is refused at once.
//! HAProxy queues for 100 ms, as ours does. Envoy waits at a backend, and so may wait at one while
//! another is free. Called by `peer`.

use std::{fmt::Write, net::SocketAddr, path::Path};

use serde_json::json;

/// For nginx, with everything that it writes in `dir`.
pub(super) fn nginx(listen: SocketAddr, backends: &[SocketAddr], dir: &Path) -> String {
    let mut servers = String::new();
    for backend in backends {
        writeln!(servers, "    server {backend} max_conns=1 max_fails=0;")
            .expect("writing to a String cannot fail");
    }
    let dir = dir.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("  {what}_temp_path {dir}/{what};\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid {dir}/nginx.pid;\nerror_log stderr crit;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n{temporary}\
         \x20 upstream backends {{\n    least_conn;\n{servers}\
         \x20   keepalive 64;\n    keepalive_requests 1000000000;\n  }}\n\
         \x20 server {{\n    listen {listen} backlog=4096;\n    location / {{\n\
         \x20     proxy_pass http://backends;\n\
         \x20     proxy_http_version 1.1;\n\
         \x20     proxy_next_upstream off;\n\
         \x20     proxy_set_header Connection \"\";\n\
         \x20     proxy_set_header Host $host;\n\
         \x20     proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         \x20     proxy_set_header X-Forwarded-Proto $scheme;\n\
         \x20     proxy_set_header X-Forwarded-Host $host;\n\
         \x20     proxy_set_header X-Request-Id $request_id;\n\
         \x20   }}\n  }}\n}}\n"
    )
}

/// For HAProxy.
pub(super) fn haproxy(listen: SocketAddr, backends: &[SocketAddr]) -> String {
    let mut servers = String::new();
    for (index, backend) in backends.iter().enumerate() {
        writeln!(servers, "  server s{index} {backend} maxconn 1")
            .expect("writing to a String cannot fail");
    }
    format!(
        "global\n  nbthread 1\n  maxconn 4096\n\
         defaults\n  mode http\n  timeout connect 1s\n  timeout client 30s\n  timeout server 30s\n\
         \x20 timeout queue 100ms\n  retries 0\n\
         frontend clients\n  bind {listen} backlog 4096\n  default_backend backends\n\
         \x20 option forwardfor\n  unique-id-format %[uuid()]\n  unique-id-header X-Request-Id\n\
         \x20 http-request set-header X-Forwarded-Proto http\n\
         \x20 http-request set-header X-Forwarded-Host %[req.hdr(host)]\n\
         backend backends\n  balance leastconn\n  http-reuse always\n{servers}"
    )
}

/// For Envoy, which takes JSON.
pub(super) fn envoy(listen: SocketAddr, backends: &[SocketAddr]) -> String {
    const TYPES: &str = "type.googleapis.com/envoy.extensions";
    let address = |of: &SocketAddr| {
        let (address, port) = (of.ip().to_string(), of.port());
        json!({"socket_address": {"address": address, "port_value": port}})
    };
    let endpoints: Vec<_> = backends
        .iter()
        .map(|backend| json!({"endpoint": {"address": address(backend)}}))
        .collect();
    let route = json!({
        "match": {"prefix": "/"},
        "route": {"cluster": "backends", "timeout": "1s"},
    });
    let manager = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "bench",
        "use_remote_address": true,
        "append_x_forwarded_port": false,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")},
        }],
    });
    let least_request = json!({
        "@type": format!("{TYPES}.load_balancing_policies.least_request.v3.LeastRequest"),
        // All of them are looked at, rather than two at random.
        "selection_method": "FULL_SCAN",
    });
    let cluster = json!({
        "name": "backends",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_balancing_policy": {"policies": [{"typed_extension_config": {
            "name": "envoy.load_balancing_policies.least_request",
            "typed_config": least_request,
        }}]},
        "circuit_breakers": {
            "thresholds": [{"max_requests": 1000, "max_pending_requests": 1000, "max_retries": 0}],
            "per_host_thresholds": [{"max_connections": 1}],
        },
        "load_assignment": {
            "cluster_name": "backends",
            "endpoints": [{"lb_endpoints": endpoints}],
        },
    });
    let listener = json!({
        "name": "clients",
        "address": address(&listen),
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": manager,
        }]}],
    });
    json!({"static_resources": {"listeners": [listener], "clusters": [cluster]}}).to_string()
}
