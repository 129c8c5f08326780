//! The OpenAPI document: it has every route, and whatever it refers to is in it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

fn document() -> Value {
    serde_json::to_value(super::document()).unwrap()
}

/// `METHOD PATH` of every operation in the document.
fn operations(document: &Value) -> BTreeSet<String> {
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, item): (&String, &Value)| {
        let path = path.clone();
        let methods: Vec<_> = item.as_object().unwrap().keys().cloned().collect();
        methods
            .into_iter()
            .map(move |method| format!("{} {path}", method.to_uppercase()))
    };
    paths.iter().flat_map(of_path).collect()
}

#[test]
fn the_document_has_exactly_the_routes_of_the_contract() {
    // Routes and document come from the same calls, so one list holds both to the contract.
    let contract = [
        "GET /cache-metrics",
        "GET /healthz",
        "GET /metrics",
        "GET /openapi.json",
        "GET /readyz",
        "GET /v1/affinity",
        "GET /v1/backends",
        "GET /v1/config",
        "GET /v1/connections",
        "GET /v1/events",
        "GET /v1/log-level",
        "GET /v1/maps",
        "GET /v1/maps/{name}",
        "GET /v1/queues",
        "GET /v1/services",
        "GET /v1/services/{namespace}/{name}",
        "GET /v1/stats",
        "GET /version",
        "POST /v1/audit",
        "POST /v1/services/{namespace}/{name}/backends/{address}/drain",
        "POST /v1/services/{namespace}/{name}/backends/{address}/undrain",
        "PUT /v1/log-level",
    ];
    assert_eq!(operations(&document()), contract.map(str::to_owned).into());
}

#[test]
fn every_reference_leads_somewhere() {
    fn references<'v>(value: &'v Value, found: &mut BTreeSet<&'v str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 10, "{found:?}");
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(
            document.pointer(pointer).is_some(),
            "{reference} leads nowhere"
        );
    }
}

#[test]
fn operations_have_names_of_their_own_and_say_what_they_do() {
    let document = document();
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name), "{name} is used twice");
            assert!(
                operation["summary"].is_string(),
                "{method} {path} has no summary"
            );
        }
    }
}

#[test]
fn what_changes_something_says_who_may() {
    let document = document();
    let scheme = &document["components"]["securitySchemes"][TOKEN];
    assert_eq!(
        (&scheme["type"], &scheme["scheme"]),
        (&"http".into(), &"bearer".into())
    );
    let changes = operations(&serde_json::to_value(changing().into_openapi()).unwrap());
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let is_change = changes.contains(&format!("{} {path}", method.to_uppercase()));
            let who = &operation["security"];
            assert_eq!(is_change, !who.is_null(), "{method} {path}: {who}");
            for status in ["401", "403", "429"] {
                let documented = operation["responses"].get(status).is_some();
                assert_eq!(is_change, documented, "{method} {path}: {status}");
            }
        }
    }
}

#[tokio::test]
async fn only_changes_need_permission() {
    use axum::{body::Body, routing::put};
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    for transport in [Transport::Unix, Transport::Tcp] {
        let permit = Permit::new(transport, None);
        let changing = Router::new()
            .route("/changed", put(async || "changed"))
            .route_layer(middleware::from_fn_with_state(permit, permit::check));
        let router = changing.merge(Router::new().route("/changed", get(async || "read")));
        let service = TowerToHyperService::new(router);
        // Nobody vouches for whoever asks here.
        for (method, expected) in [(Method::PUT, 403), (Method::GET, 200), (Method::POST, 405)] {
            let request = Request::builder()
                .method(&method)
                .uri("/changed")
                .body(Body::empty());
            let response = service.call(request.unwrap()).await.unwrap();
            assert_eq!(response.status(), expected, "{method} over {transport:?}");
        }
    }
}
