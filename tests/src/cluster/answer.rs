//! Requests and their answers: the HTTP face of the store.
//!
//! Called by `connection` for each request. It refuses what an API server refuses, in its words.

use std::{convert::Infallible, sync::Arc, time::Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{
    Method, Request as HttpRequest, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    Kind,
    connection::{Marks, Piece, Reply},
    edit,
    faults::Faults,
    feed::Feed,
    kind::Target,
    object::Object,
    refused::{BadRequest, Refused},
    requests::{Log, Request},
    selector::{Selector, Unreadable},
    store::{Begin, Item, Page, Sort, Store, error_line},
};

/// Pieces of a stream that may wait for a slow client.
const PIECES: usize = 64;

/// What answers need.
pub(super) struct Answering {
    pub(super) store: Arc<Store>,
    pub(super) faults: Faults,
    pub(super) log: Arc<Log>,
}

impl Answering {
    pub(super) async fn answer(
        &self,
        request: HttpRequest<Incoming>,
        marks: &Arc<Marks>,
    ) -> Result<Response<Reply>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes());
        let target = Target::of(head.uri.path());
        let query: Vec<(String, String)> =
            form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes())
                .into_owned()
                .collect();
        let request = Request {
            at: Instant::now(),
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            query,
            body_bytes: body.as_ref().map_or(0, Bytes::len),
            verb: "",
            kind: target.as_ref().map(|target| target.kind),
            namespace: target.as_ref().and_then(|target| target.namespace.clone()),
            name: target.as_ref().and_then(|target| target.name.clone()),
            user_agent: text(&head.headers, USER_AGENT.as_str()).to_owned(),
        };
        let request = Request {
            verb: verb(&head.method, target.as_ref(), &request),
            ..request
        };
        self.log.add(request.clone());
        let answer = match (body, target) {
            (Err(_), _) => Err(BadRequest::BodyCut.into()),
            (Ok(_), None) => page(head.uri.path()),
            (Ok(body), Some(target)) => {
                let content_type = text(&head.headers, CONTENT_TYPE.as_str());
                self.about(&request, target, content_type, &body, marks)
                    .await
            }
        };
        Ok(answer.unwrap_or_else(|refused| refusal(&refused)))
    }

    /// Answers a request about objects.
    async fn about(
        &self,
        request: &Request,
        target: Target,
        content_type: &str,
        body: &[u8],
        marks: &Arc<Marks>,
    ) -> Result<Response<Reply>, Refused> {
        let faults = self.faults.state.borrow().of(target.kind);
        if !faults.answers_after.is_zero() {
            tokio::time::sleep(faults.answers_after).await;
        }
        if let Some(refused) = self.faults.refusal(target.kind) {
            return Err(refused);
        }
        let store = &self.store;
        match request.verb {
            "watch" => self.watch(request, &target, marks),
            "list" => self.list(request, &target),
            "deletecollection" => self.delete_all(request, &target),
            "get" => {
                let (namespace, name) = of_one(&target);
                let object = store.get(target.kind, namespace, name);
                let not_found = || Refused::NotFound {
                    kind: target.kind,
                    name: name.to_owned(),
                };
                Ok(json_reply(
                    StatusCode::OK,
                    object.ok_or_else(not_found)?.json(),
                ))
            }
            "create" => edit::create(store, &target, body).map(object_reply),
            "update" => edit::replace(store, &target, body).map(object_reply),
            "patch" => edit::patch(store, &target, request, content_type, body).map(object_reply),
            "delete" => edit::delete(store, &target, body).map(object_reply),
            _ => Err(Refused::MethodNotAllowed {
                method: request.method.clone(),
            }),
        }
    }

    fn list(&self, request: &Request, target: &Target) -> Result<Response<Reply>, Refused> {
        let limit = number(request, "limit")?.unwrap_or(0);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let page = match request.parameter("continue") {
            "" => self
                .store
                .list(target.kind, &selector(request, target)?, limit),
            token => self.store.continue_list(token, limit)?,
        };
        let fine = selector(request, target)?.is_fine();
        Ok(json_reply(
            StatusCode::OK,
            list_body(target.kind, &page, fine),
        ))
    }

    fn delete_all(&self, request: &Request, target: &Target) -> Result<Response<Reply>, Refused> {
        let selector = selector(request, target)?;
        let page = self.store.list(target.kind, &selector, 0);
        for object in &page.objects {
            match edit::delete_object(&self.store, object) {
                // Someone else was faster.
                Err(Refused::NotFound { .. }) => {}
                outcome => {
                    outcome?;
                }
            }
        }
        Ok(json_reply(
            StatusCode::OK,
            list_body(target.kind, &page, true),
        ))
    }

    fn watch(
        &self,
        request: &Request,
        target: &Target,
        marks: &Arc<Marks>,
    ) -> Result<Response<Reply>, Refused> {
        let bookmarks = is_on(request, "allowWatchBookmarks");
        let begin = if is_on(request, "sendInitialEvents") {
            Begin::Everything {
                say_when_done: bookmarks,
            }
        } else {
            match number(request, "resourceVersion")? {
                None | Some(0) => Begin::Everything {
                    say_when_done: false,
                },
                Some(revision) => Begin::After(revision),
            }
        };
        let mut selector = selector(request, target)?;
        if let Some(name) = &target.name {
            selector = Selector::new(selector.namespace, "", &format!("metadata.name={name}"))
                .map_err(unreadable)?;
        }
        let end = number(request, "timeoutSeconds")?.map(|seconds| {
            tokio::time::Instant::now() + std::time::Duration::from_secs(seconds.min(86_400))
        });
        let watched = self.store.watch(target.kind, selector, &begin, bookmarks);
        let (id, items) = match watched {
            Err(refused @ Refused::Expired { .. })
                if !self.faults.state.borrow().gone_as_status =>
            {
                (0, gone(&refused))
            }
            watched => watched?,
        };
        let (out, pieces) = mpsc::channel::<Piece>(PIECES);
        let feed = Feed {
            kind: target.kind,
            id,
            items,
            faults: self.faults.clone(),
            out,
            bookmarks,
            end,
        };
        tokio::spawn(feed.run());
        Ok(reply(
            StatusCode::OK,
            Reply::Stream(pieces, Arc::clone(marks)),
        ))
    }
}

/// What a request asks for, in the words of RBAC.
fn verb(method: &Method, target: Option<&Target>, request: &Request) -> &'static str {
    let Some(target) = target else { return "" };
    let watch = is_on(request, "watch");
    match (method, &target.name) {
        (&Method::GET, _) if watch => "watch",
        (&Method::GET, None) => "list",
        (&Method::GET, Some(_)) => "get",
        (&Method::POST, None) => "create",
        (&Method::PUT, Some(_)) => "update",
        (&Method::PATCH, Some(_)) => "patch",
        (&Method::DELETE, None) => "deletecollection",
        (&Method::DELETE, Some(_)) => "delete",
        _ => "",
    }
}

/// Answers a path that leads to no objects.
fn page(path: &str) -> Result<Response<Reply>, Refused> {
    let value = match path.trim_end_matches('/') {
        "/healthz" | "/livez" | "/readyz" => {
            return Ok(reply(StatusCode::OK, Reply::whole("ok")));
        }
        "/version" => json!({
            "major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "",
            "gitTreeState": "clean", "buildDate": "2025-04-23T00:00:00Z",
            "goVersion": "", "compiler": "", "platform": "linux/amd64",
        }),
        "/api" => json!({"kind": "APIVersions", "versions": ["v1"]}),
        "/apis" => groups(),
        path => {
            let group = path
                .strip_prefix("/apis/")
                .or_else(|| path.strip_prefix("/api/"));
            let resources = resources(group.unwrap_or_default());
            resources.ok_or_else(|| Refused::NoSuchPath {
                path: path.to_owned(),
            })?
        }
    };
    Ok(json_reply(StatusCode::OK, value.to_string()))
}

/// The groups, for discovery.
fn groups() -> Value {
    let group = |kind: Kind| {
        let version = json!({"groupVersion": kind.api_version(), "version": "v1"});
        json!({"name": kind.group(), "versions": [version], "preferredVersion": version})
    };
    let named = Kind::ALL
        .into_iter()
        .filter(|kind| !kind.group().is_empty());
    json!({
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": named.map(group).collect::<Vec<_>>(),
    })
}

/// The kinds of a group, for discovery; `None` if there is no such group.
fn resources(api_version: &str) -> Option<Value> {
    let resources: Vec<Value> = Kind::ALL
        .into_iter()
        .filter(|kind| kind.api_version() == api_version)
        .map(|kind| {
            json!({
                "name": kind.plural(),
                "singularName": kind.name().to_lowercase(),
                "namespaced": kind.is_namespaced(),
                "kind": kind.name(),
                "verbs": ["create", "delete", "deletecollection", "get", "list", "patch",
                          "update", "watch"],
            })
        })
        .collect();
    (!resources.is_empty()).then(|| {
        json!({
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": api_version,
            "resources": resources,
        })
    })
}

/// The stream of a watch that comes too late.
fn gone(refused: &Refused) -> mpsc::UnboundedReceiver<Item> {
    let (sender, items) = mpsc::unbounded_channel();
    // The receiver is here.
    let _ = sender.send(Item {
        line: error_line(refused),
        born: Instant::now(),
        sort: Sort::Error,
        mark: None,
    });
    items
}

/// A list, made of its objects' bytes.
fn list_body(kind: Kind, page: &Page, fine: bool) -> Vec<u8> {
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if let Some((token, left)) = &page.rest {
        metadata["continue"] = token.as_str().into();
        // As with real servers, the rest is not counted under a selector.
        if !fine {
            metadata["remainingItemCount"] = (*left).into();
        }
    }
    let size: usize = page.objects.iter().map(|o| o.tail().len() + 2).sum();
    let mut body = Vec::with_capacity(size + 512);
    let head = format!(
        r#"{{"kind":"{}List","apiVersion":"{}","metadata":{metadata},"items":["#,
        kind.name(),
        kind.api_version()
    );
    body.extend_from_slice(head.as_bytes());
    for (place, object) in page.objects.iter().enumerate() {
        if place > 0 {
            body.push(b',');
        }
        body.push(b'{');
        body.extend_from_slice(object.tail());
    }
    body.extend_from_slice(b"]}");
    body
}

fn selector(request: &Request, target: &Target) -> Result<Selector, Refused> {
    Selector::new(
        target.namespace.clone(),
        request.parameter("labelSelector"),
        request.parameter("fieldSelector"),
    )
    .map_err(unreadable)
}

fn unreadable(Unreadable(value): Unreadable) -> Refused {
    BadRequest::Query {
        name: "labelSelector or fieldSelector",
        value,
    }
    .into()
}

fn is_on(request: &Request, name: &str) -> bool {
    matches!(request.parameter(name), "true" | "1")
}

fn number(request: &Request, name: &'static str) -> Result<Option<u64>, Refused> {
    let value = request.parameter(name);
    if value.is_empty() {
        return Ok(None);
    }
    value.parse().map(Some).map_err(|_| {
        BadRequest::Query {
            name,
            value: value.to_owned(),
        }
        .into()
    })
}

/// Namespace and name of a target that is one object.
fn of_one(target: &Target) -> (&str, &str) {
    (
        target.namespace.as_deref().unwrap_or_default(),
        target.name.as_deref().unwrap_or_default(),
    )
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn object_reply((status, object): (StatusCode, Arc<Object>)) -> Response<Reply> {
    json_reply(status, object.json())
}

fn json_reply(status: StatusCode, body: impl Into<Bytes>) -> Response<Reply> {
    reply(status, Reply::whole(body))
}

fn reply(status: StatusCode, body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn refusal(refused: &Refused) -> Response<Reply> {
    let code = StatusCode::from_u16(refused.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_reply(code, refused.status().to_string());
    if let Some(seconds) = refused.retry_after_seconds() {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
