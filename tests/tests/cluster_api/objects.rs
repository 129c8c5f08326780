//! Single objects and lists.

use k8s_openapi::api::{
    apps::v1::Deployment, coordination::v1::Lease, core::v1::Node, events::v1::Event,
};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};
use tests::cluster::{
    Kind,
    objects::{Function, config_map, node},
};

use super::*;

#[tokio::test]
async fn objects_are_made_read_replaced_and_deleted() -> Result<()> {
    let cluster = Cluster::local()?;
    let maps: Api<ConfigMap> = Api::namespaced(client(&cluster).await?, "a");
    let post = PostParams::default();
    let map: ConfigMap = serde_json::from_value(config_map("a", "limits", "max", "1"))?;

    let made = maps.create(&post, &map).await?;
    assert!(made.uid().is_some() && made.creation_timestamp().is_some());
    assert_eq!(code(maps.create(&post, &map).await), 409);

    let mut newer = made.clone();
    newer
        .data
        .get_or_insert_default()
        .insert("max".into(), "2".into());
    let replaced = maps.replace("limits", &post, &newer).await?;
    assert_eq!(replaced.uid(), made.uid());
    assert_ne!(replaced.resource_version(), made.resource_version());
    assert_eq!(
        code(maps.replace("limits", &post, &newer).await),
        409,
        "old version"
    );
    let same = maps.replace("limits", &post, &replaced).await?;
    assert_eq!(
        same.resource_version(),
        replaced.resource_version(),
        "nothing changed"
    );

    let merge = Patch::Merge(json!({"data": {"max": null, "min": "0"}}));
    let merged = maps
        .patch("limits", &PatchParams::default(), &merge)
        .await?;
    assert_eq!(
        merged.data.map(|data| data.into_iter().collect::<Vec<_>>()),
        Some(vec![("min".to_owned(), "0".to_owned())])
    );

    let wrong_uid = DeleteParams::default().preconditions(Preconditions {
        uid: Some("another".to_owned()),
        resource_version: None,
    });
    assert_eq!(code(maps.delete("limits", &wrong_uid).await), 409);
    maps.delete("limits", &DeleteParams::default()).await?;
    assert_eq!(code(maps.get("limits").await), 404);
    assert_eq!(
        code(maps.delete("limits", &DeleteParams::default()).await),
        404
    );
    assert_eq!(cluster.list(Kind::ConfigMap), Vec::<Value>::new());
    Ok(())
}

#[tokio::test]
async fn the_builders_make_what_the_types_can_read() -> Result<()> {
    let cluster = Cluster::local()?;
    let client = client(&cluster).await?;
    let function = Function::new("fn", "hello", "10.96.0.1")
        .and_cluster_ip("fd00::1")
        .and_port("admin", 9000, 9001)
        .max_inflight_from("limits", "max")
        .annotation("idlefirst.dev/strategy", "leader");
    let pod = function
        .pod(1, "10.1.0.1", "n1")
        .and_ip("fd01::1")
        .zone("z")
        .hint("z");
    cluster.put_all(function.objects())?;
    cluster.put_all([
        pod.object(),
        function.slice("a", [&pod]),
        function.slice6("b", [&pod]),
        node("n1", Some("z")),
    ])?;

    let service = Api::<Service>::namespaced(client.clone(), "fn")
        .get("hello")
        .await?;
    assert_eq!(service.annotations()["idlefirst.dev/strategy"], "leader");
    let spec = service.spec.context("a spec")?;
    assert_eq!(
        spec.cluster_ips.unwrap_or_default(),
        ["10.96.0.1", "fd00::1"]
    );
    assert_eq!(spec.ports.unwrap_or_default().len(), 2);

    let deployment = Api::<Deployment>::namespaced(client.clone(), "fn")
        .get("hello")
        .await?;
    let pods = deployment
        .spec
        .and_then(|spec| spec.template.spec)
        .context("pods")?;
    let env = pods.containers[0].env.clone().unwrap_or_default();
    let source = env
        .iter()
        .find(|env| env.name == "max_inflight")
        .context("env")?;
    let key = source
        .value_from
        .clone()
        .and_then(|from| from.config_map_key_ref);
    assert_eq!(
        key.map(|key| (key.name, key.key)),
        Some(("limits".into(), "max".into()))
    );

    let slices = Api::<EndpointSlice>::all(client.clone());
    let of_hello = ListParams::default().labels("kubernetes.io/service-name=hello");
    let slices = slices.list(&of_hello).await?;
    let addresses: Vec<_> = slices
        .iter()
        .flat_map(|slice| slice.endpoints.clone())
        .flat_map(|endpoint| endpoint.addresses)
        .collect();
    assert_eq!(addresses, ["10.1.0.1", "fd01::1"]);
    assert_eq!(
        slices.items[0].owner_references()[0].uid,
        service.metadata.uid.context("uid")?
    );

    let seen = Api::<Pod>::namespaced(client.clone(), "fn")
        .get(pod.name())
        .await?;
    assert_eq!(seen.uid().as_deref(), Some(pod.uid()));
    let conditions = seen
        .status
        .and_then(|status| status.conditions)
        .unwrap_or_default();
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
        .context("Ready")?;
    assert!(ready.status == "True" && ready.last_transition_time.is_some());
    let zone =
        Api::<Node>::all(client).get("n1").await?.labels()["topology.kubernetes.io/zone"].clone();
    assert_eq!(zone, "z");
    Ok(())
}

#[tokio::test]
async fn apply_makes_changes_and_leaves_alone() -> Result<()> {
    let cluster = Cluster::local()?;
    let slices: Api<EndpointSlice> = Api::namespaced(client(&cluster).await?, "a");
    let config = |address: &str, zone: Option<&str>| {
        let mut endpoint = json!({"addresses": [address], "conditions": {"ready": true}});
        if let Some(zone) = zone {
            endpoint["zone"] = zone.into();
        }
        Patch::Apply(json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "leader", "labels": {"l": "1"}},
            "addressType": "IPv4",
            "endpoints": [endpoint],
        }))
    };
    let ours = PatchParams::apply("idlefirst").force();

    let made = slices
        .patch("leader", &ours, &config("10.0.0.1", None))
        .await?;
    let again = slices
        .patch("leader", &ours, &config("10.0.0.1", None))
        .await?;
    assert_eq!(
        again.resource_version(),
        made.resource_version(),
        "nothing changed"
    );
    assert_eq!(
        again.managed_fields()[0].manager.as_deref(),
        Some("idlefirst")
    );
    let moved = slices
        .patch("leader", &ours, &config("10.0.0.2", Some("z")))
        .await?;
    assert_ne!(moved.resource_version(), made.resource_version());
    assert_eq!(moved.uid(), made.uid());
    assert_eq!(moved.endpoints[0].addresses, ["10.0.0.2"]);

    let theirs = PatchParams::apply("another");
    assert_eq!(
        code(
            slices
                .patch("leader", &theirs, &config("10.0.0.3", None))
                .await
        ),
        409
    );
    let nobody = PatchParams::default();
    assert!(
        slices
            .patch("leader", &nobody, &config("10.0.0.3", None))
            .await
            .is_err()
    );
    let request = cluster.requests().pop().context("a request")?;
    assert!(request.is("patch", Kind::EndpointSlice) && request.body_bytes > 0);
    Ok(())
}

#[tokio::test]
async fn apply_takes_yaml() -> Result<()> {
    let cluster = Cluster::local()?;
    let client = client(&cluster).await?;
    let apply = |query: &str| {
        let path = format!("/api/v1/namespaces/a/configmaps/m{query}");
        http::Request::patch(path)
            .header("content-type", "application/apply-patch+yaml")
            .body(b"apiVersion: v1\nkind: ConfigMap\ndata: {max: \"3\"}\n".to_vec())
    };
    let made: ConfigMap = client.request(apply("?fieldManager=x")?).await?;
    assert_eq!(made.data.context("data")?["max"], "3");
    assert_eq!(code(client.request::<ConfigMap>(apply("")?).await), 400);
    Ok(())
}

#[tokio::test]
async fn of_two_holders_of_a_lease_one_is_too_late() -> Result<()> {
    let cluster = Cluster::local()?;
    let leases: Api<Lease> = Api::namespaced(client(&cluster).await?, "a");
    let lease: Lease = serde_json::from_value(json!({
        "metadata": {"name": "publisher"},
        "spec": {"leaseDurationSeconds": 15},
    }))?;
    let post = PostParams::default();
    let free = leases.create(&post, &lease).await?;
    let taken = |holder: &str| {
        let mut lease = free.clone();
        lease.spec.get_or_insert_default().holder_identity = Some(holder.to_owned());
        lease
    };
    let first = leases.replace("publisher", &post, &taken("first")).await?;
    assert_eq!(
        code(leases.replace("publisher", &post, &taken("second")).await),
        409
    );
    let now = leases.get("publisher").await?;
    assert_eq!(now, first);
    assert_eq!(
        code(leases.replace("publisher", &post, &lease).await),
        422,
        "no version"
    );
    Ok(())
}

#[tokio::test]
async fn pages_of_a_list_are_of_one_moment() -> Result<()> {
    let cluster = Cluster::local()?;
    let names: Vec<String> = (0..25).map(|n| format!("f{n:02}")).collect();
    for name in &names {
        cluster.put(Function::new("a", name, "10.96.0.1").service())?;
    }
    let services: Api<Service> = Api::all(client(&cluster).await?);
    let mut params = ListParams::default().limit(10);
    let mut seen = Vec::new();
    let mut versions = Vec::new();
    loop {
        let page = services.list(&params).await?;
        seen.extend(page.iter().map(|service| service.name_any()));
        versions.push(page.metadata.resource_version.context("a version")?);
        cluster.delete(Kind::Service, "a", &seen[seen.len() - 1])?;
        cluster.put(Function::new("a", &format!("g{}", seen.len()), "10.96.0.2").service())?;
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = ListParams::default().limit(10).continue_token(&token),
            None => break,
        }
    }
    assert_eq!(seen, names);
    versions.dedup();
    assert_eq!(versions.len(), 1);
    assert_eq!(cluster.requests().len(), 3);

    let begun = services.list(&ListParams::default().limit(10)).await?;
    let token = begun.metadata.continue_.context("more")?;
    cluster.faults().expire_history(Kind::ALL);
    let rest = ListParams::default().limit(10).continue_token(&token);
    assert_eq!(code(services.list(&rest).await), 410);
    Ok(())
}

#[tokio::test]
async fn selectors_narrow_lists_and_deletions() -> Result<()> {
    let cluster = Cluster::local()?;
    for (namespace, name, node) in [("a", "x", "n1"), ("a", "y", "n2"), ("b", "z", "n1")] {
        let pod = tests::cluster::objects::Pod::alone(namespace, name, "10.1.0.1", node);
        cluster.put(pod.label("name", name).object())?;
    }
    let pods: Api<Pod> = Api::all(client(&cluster).await?);
    let mut found = Vec::new();
    for params in [
        ListParams::default().fields("spec.nodeName=n1"),
        ListParams::default().labels("name in (x,y)"),
        ListParams::default().labels("!name"),
        ListParams::default().fields("metadata.namespace=b"),
    ] {
        let names = pods.list(&params).await?;
        found.push(names.iter().map(|pod| pod.name_any()).collect::<String>());
    }
    assert_eq!(found, ["xz", "xy", "", "z"]);

    let of_a: Api<Pod> = Api::namespaced(pods.into_client(), "a");
    let only_x = ListParams::default().labels("name=x");
    of_a.delete_collection(&DeleteParams::default(), &only_x)
        .await?;
    assert_eq!(cluster.list(Kind::Pod).len(), 2);
    Ok(())
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_a_status() -> Result<()> {
    let cluster = Cluster::local()?;
    let client = client(&cluster).await?;
    let post = |path: &str, body: Value| http::Request::post(path).body(body.to_string().into());
    let maps = "/api/v1/namespaces/a/configmaps";
    for (path, body, expected) in [
        (maps, json!({"metadata": {}}), 422),
        (
            maps,
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "x"}}),
            400,
        ),
        (
            maps,
            json!({"metadata": {"name": "x", "namespace": "b"}}),
            400,
        ),
        (
            maps,
            json!({"metadata": {"name": "x", "resourceVersion": "1"}}),
            422,
        ),
        (maps, json!([]), 400),
        ("/api/v1/widgets", json!({}), 404),
        ("/api/v1/namespaces/a/configmaps/x", json!({}), 405),
    ] {
        let answer = client.request::<Value>(post(path, body.clone())?).await;
        assert_eq!(code(answer), expected, "{path} {body}");
    }
    assert_eq!(cluster.revision(), 0, "nothing has changed");

    let version = client.apiserver_version().await?;
    assert_eq!(version.major, "1");
    assert!(
        client
            .list_core_api_versions()
            .await?
            .versions
            .contains(&"v1".to_owned())
    );
    let healthy = http::Request::get("/healthz").body(Vec::new())?;
    assert_eq!(client.request_text(healthy).await?, "ok");
    Ok(())
}

#[tokio::test]
async fn what_a_controller_reports_can_be_read() -> Result<()> {
    let cluster = Cluster::local()?;
    let client = client(&cluster).await?;
    cluster.put(Function::new("a", "hello", "10.96.0.1").service())?;
    let service = Api::<Service>::namespaced(client.clone(), "a")
        .get("hello")
        .await?;
    let reporter = kube::runtime::events::Reporter::from("idlefirst");
    let recorder = kube::runtime::events::Recorder::new(client.clone(), reporter);
    let about = kube::Resource::object_ref(&service, &());
    let event = kube::runtime::events::Event {
        type_: kube::runtime::events::EventType::Warning,
        reason: "BadAnnotation".into(),
        note: Some("not a number".into()),
        action: "Configure".into(),
        secondary: None,
    };
    recorder.publish(&event, &about).await?;
    recorder.publish(&event, &about).await?;
    let events = Api::<Event>::namespaced(client, "a");
    let of_hello = ListParams::default().fields("regarding.name=hello,reason=BadAnnotation");
    let events = events.list(&of_hello).await?.items;
    assert_eq!(events.len(), 1, "the second is counted in the first");
    assert_eq!(
        events[0].series.as_ref().map(|series| series.count),
        Some(2)
    );
    Ok(())
}
