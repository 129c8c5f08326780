//! All objects, one counter of versions, the history, and who is told of changes.
//!
//! It owns consistency: a list is of one moment, and a stream that begins at a version misses
//! nothing after it. It does not know HTTP, and faults only where they are about history. Called
//! by `answer` for clients, and by `Cluster` for tests.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{
    Kind,
    object::{Change, Object},
    refused::Refused,
    selector::Selector,
    written::{Gathering, Mark, Written},
};

/// Changes of a kind that are remembered.
const HISTORY_LEN: usize = 10_000;
/// Lists that can still be continued.
const SNAPSHOTS: usize = 64;

/// An object's fields.
pub(super) type Fields = Map<String, Value>;

/// What shall become of an object.
pub(super) enum Decision {
    /// This, as a change even if it is the same.
    Put(Fields),
    /// This, unless it is the same already.
    PutIfOther(Fields),
    Delete,
}

/// What became of it.
pub(super) struct Outcome {
    pub(super) object: Arc<Object>,
    pub(super) created: bool,
    pub(super) written: Written,
}

/// Something for one stream.
pub(super) struct Item {
    pub(super) line: Bytes,
    pub(super) born: Instant,
    pub(super) sort: Sort,
    pub(super) mark: Option<Mark>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// An object that was there when the stream began.
    Initial,
    Event,
    Bookmark,
    /// The stream ends with it.
    Error,
}

/// How a stream begins.
pub(super) enum Begin {
    /// With everything there is.
    Everything {
        /// And a bookmark that says that this was it.
        say_when_done: bool,
    },
    /// With what happened after this version.
    After(u64),
}

/// Part of a list.
pub(super) struct Page {
    pub(super) revision: u64,
    pub(super) objects: Vec<Arc<Object>>,
    /// Token and count of the rest.
    pub(super) rest: Option<(String, usize)>,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    revision: u64,
    uids: u64,
    streams: u64,
    shelves: [Shelf; Kind::ALL.len()],
    lists: u64,
    snapshots: VecDeque<Snapshot>,
}

/// Everything of one kind.
#[derive(Debug, Default)]
struct Shelf {
    objects: BTreeMap<(String, String), Arc<Object>>,
    history: VecDeque<Event>,
    /// Changes up to this version are forgotten.
    forgotten: u64,
    streams: Vec<Stream>,
}

#[derive(Debug)]
struct Event {
    change: Change,
    object: Arc<Object>,
    previous: Option<Arc<Object>>,
}

#[derive(Debug)]
struct Stream {
    id: u64,
    selector: Selector,
    items: UnboundedSender<Item>,
    bookmarks: bool,
}

#[derive(Debug)]
struct Snapshot {
    list: u64,
    revision: u64,
    objects: Vec<Arc<Object>>,
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn revision(&self) -> u64 {
        self.lock().revision
    }

    pub(super) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.lock().shelves[kind.index()].get(namespace, name)
    }

    /// Changes one object by what `decide` makes of its present version.
    pub(super) fn change(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        decide: impl FnOnce(Option<&Arc<Object>>) -> Result<Decision, Refused>,
    ) -> Result<Outcome, Refused> {
        let mut inner = self.lock();
        let present = inner.shelves[kind.index()].get(namespace, name);
        let (mut fields, always) = match decide(present.as_ref())? {
            Decision::Put(fields) => (fields, true),
            Decision::PutIfOther(fields) => (fields, false),
            Decision::Delete => {
                let present = present.ok_or_else(|| Refused::NotFound {
                    kind,
                    name: name.to_owned(),
                })?;
                return Ok(inner.delete(&present));
            }
        };
        inner.complete(kind, namespace, name, present.as_ref(), &mut fields);
        if let Some(present) = &present
            && !always
            && unversioned(present.value()) == unversioned(fields.clone())
        {
            let (_, written) = Gathering::begin();
            return Ok(Outcome {
                object: Arc::clone(present),
                created: false,
                written,
            });
        }
        Ok(inner.put(kind, present, fields))
    }

    /// What is selected, all at one moment, at most `limit` of it (0: all).
    pub(super) fn list(&self, kind: Kind, selector: &Selector, limit: usize) -> Page {
        let mut inner = self.lock();
        let objects: Vec<_> = inner.shelves[kind.index()]
            .objects
            .values()
            .filter(|object| selector.selects(object))
            .cloned()
            .collect();
        let revision = inner.revision;
        if limit == 0 || objects.len() <= limit {
            return Page {
                revision,
                objects,
                rest: None,
            };
        }
        inner.lists += 1;
        let list = inner.lists;
        if inner.snapshots.len() == SNAPSHOTS {
            inner.snapshots.pop_front();
        }
        let snapshot = Snapshot {
            list,
            revision,
            objects,
        };
        let page = snapshot.page(0, limit);
        inner.snapshots.push_back(snapshot);
        page
    }

    /// More of a list, as it was when it began.
    pub(super) fn continue_list(&self, token: &str, limit: usize) -> Result<Page, Refused> {
        let parts = token.split_once('-').and_then(|(list, offset)| {
            Some((list.parse::<u64>().ok()?, offset.parse::<usize>().ok()?))
        });
        let (list, offset) = parts.ok_or(Refused::ContinueExpired)?;
        self.lock()
            .snapshots
            .iter()
            .find(|snapshot| snapshot.list == list)
            .map(|snapshot| snapshot.page(offset, limit))
            .ok_or(Refused::ContinueExpired)
    }

    /// Begins a stream; its id is for [`Store::bookmark`].
    pub(super) fn watch(
        &self,
        kind: Kind,
        selector: Selector,
        begin: &Begin,
        bookmarks: bool,
    ) -> Result<(u64, UnboundedReceiver<Item>), Refused> {
        let mut inner = self.lock();
        inner.streams += 1;
        let (id, revision) = (inner.streams, inner.revision);
        let (items, receiver) = unbounded_channel();
        let shelf = &mut inner.shelves[kind.index()];
        let stream = Stream {
            id,
            selector,
            items,
            bookmarks,
        };
        match begin {
            Begin::Everything { say_when_done } => {
                for object in shelf.objects.values() {
                    if stream.selector.selects(object) {
                        stream.send(Sort::Initial, object.line(Change::Added), None);
                    }
                }
                if *say_when_done {
                    stream.send(Sort::Initial, bookmark(kind, revision, true), None);
                }
            }
            Begin::After(asked) if *asked > revision => {
                return Err(Refused::TooLarge {
                    asked: *asked,
                    now: revision,
                });
            }
            Begin::After(asked) if *asked < shelf.forgotten => {
                return Err(Refused::Expired {
                    asked: *asked,
                    oldest: shelf.forgotten,
                });
            }
            Begin::After(asked) => {
                for event in &shelf.history {
                    if event.object.revision > *asked {
                        stream.tell(event, None);
                    }
                }
            }
        }
        shelf.streams.push(stream);
        Ok((id, receiver))
    }

    /// Sends a bookmark to the kind's streams that want them, or to one of them.
    pub(super) fn bookmark(&self, kind: Kind, id: Option<u64>) {
        let inner = self.lock();
        let line = bookmark(kind, inner.revision, false);
        for stream in &inner.shelves[kind.index()].streams {
            if stream.bookmarks && id.is_none_or(|id| stream.id == id) {
                stream.send(Sort::Bookmark, line.clone(), None);
            }
        }
    }

    /// Streams of a kind that are open.
    pub(super) fn streams(&self, kind: Kind) -> usize {
        let mut inner = self.lock();
        let streams = &mut inner.shelves[kind.index()].streams;
        streams.retain(|stream| !stream.items.is_closed());
        streams.len()
    }

    /// Forgets the history of a kind, so that streams cannot go on from any version before the
    /// one that is made now; nor can lists.
    pub(super) fn expire(&self, kind: Kind) {
        let mut inner = self.lock();
        inner.revision += 1;
        let revision = inner.revision;
        inner.snapshots.clear();
        let shelf = &mut inner.shelves[kind.index()];
        shelf.history.clear();
        shelf.forgotten = revision;
    }

    /// Counts versions from the start again, as after a restore; objects stay as they are.
    pub(super) fn reset_version(&self) {
        let mut inner = self.lock();
        inner.revision = 1;
        inner.snapshots.clear();
        for shelf in &mut inner.shelves {
            shelf.history.clear();
            shelf.forgotten = 0;
        }
    }

    /// Tells the open streams of a kind that they are too old, which is their end.
    pub(super) fn say_gone(&self, kind: Kind) {
        let mut inner = self.lock();
        let oldest = inner.revision;
        let line = error_line(&Refused::Expired { asked: 0, oldest });
        for stream in mem::take(&mut inner.shelves[kind.index()].streams) {
            stream.send(Sort::Error, line.clone(), None);
        }
    }
}

impl Inner {
    /// Fills in what the server gives to objects.
    fn complete(
        &mut self,
        kind: Kind,
        namespace: &str,
        name: &str,
        present: Option<&Arc<Object>>,
        fields: &mut Fields,
    ) {
        let before = present.map(|present| present.value());
        let metadata_before = before.as_ref().map(|before| &before["metadata"]);
        let mut metadata = match fields.remove("metadata") {
            Some(Value::Object(metadata)) => metadata,
            _ => Map::new(),
        };
        metadata.insert("name".to_owned(), name.into());
        if kind.is_namespaced() {
            metadata.insert("namespace".to_owned(), namespace.into());
        }
        for field in ["uid", "creationTimestamp"] {
            if metadata.get(field).is_some_and(|value| !value.is_null()) {
                continue;
            }
            let value = match metadata_before.and_then(|before| before.get(field)) {
                Some(value) => value.clone(),
                None if field == "uid" => {
                    self.uids += 1;
                    format!("1d1ef125-0000-4000-8000-{:012x}", self.uids).into()
                }
                None => rfc3339(jiff::Timestamp::now()).into(),
            };
            metadata.insert(field.to_owned(), value);
        }
        if let Some(generation) = generation(before.as_ref(), fields) {
            metadata.insert("generation".to_owned(), generation.into());
        }
        fields.insert("metadata".to_owned(), metadata.into());
    }

    fn put(&mut self, kind: Kind, previous: Option<Arc<Object>>, mut fields: Fields) -> Outcome {
        self.revision += 1;
        let revision = self.revision;
        fields["metadata"]["resourceVersion"] = revision.to_string().into();
        let change = match previous {
            Some(_) => Change::Modified,
            None => Change::Added,
        };
        let object = Arc::new(Object::new(kind, change, revision, fields));
        let shelf = &mut self.shelves[kind.index()];
        shelf.objects.insert(
            (object.namespace.clone(), object.name.clone()),
            Arc::clone(&object),
        );
        let created = previous.is_none();
        let written = shelf.publish(Event {
            change,
            object: Arc::clone(&object),
            previous,
        });
        Outcome {
            object,
            created,
            written,
        }
    }

    fn delete(&mut self, present: &Arc<Object>) -> Outcome {
        self.revision += 1;
        let mut fields = present.value();
        fields["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Object::new(present.kind, Change::Deleted, self.revision, fields);
        let object = Arc::new(object);
        let shelf = &mut self.shelves[present.kind.index()];
        shelf
            .objects
            .remove(&(present.namespace.clone(), present.name.clone()));
        let written = shelf.publish(Event {
            change: Change::Deleted,
            object: Arc::clone(&object),
            previous: Some(Arc::clone(present)),
        });
        Outcome {
            object,
            created: false,
            written,
        }
    }
}

impl Shelf {
    fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.objects.get(&key).cloned()
    }

    fn publish(&mut self, event: Event) -> Written {
        let (gathering, written) = Gathering::begin();
        self.streams.retain(|stream| !stream.items.is_closed());
        for stream in &self.streams {
            stream.tell(&event, Some(&gathering));
        }
        if self.history.len() == HISTORY_LEN
            && let Some(oldest) = self.history.pop_front()
        {
            self.forgotten = oldest.object.revision;
        }
        self.history.push_back(event);
        written
    }
}

impl Stream {
    /// Tells of a change what its selector sees of it.
    fn tell(&self, event: &Event, gathering: Option<&Arc<Gathering>>) {
        let before = event.previous.as_ref();
        let was = before.is_some_and(|before| self.selector.selects(before));
        let is = event.change != Change::Deleted && self.selector.selects(&event.object);
        let change = match (was, is) {
            (false, false) => return,
            (false, true) => Change::Added,
            (true, true) => Change::Modified,
            (true, false) => Change::Deleted,
        };
        let mark = gathering.map(Gathering::mark);
        self.send(Sort::Event, event.object.line(change), mark);
    }

    fn send(&self, sort: Sort, line: Bytes, mark: Option<Mark>) {
        let item = Item {
            line,
            born: Instant::now(),
            sort,
            mark,
        };
        // A stream that has ended is swept away with the next change.
        let _ = self.items.send(item);
    }
}

impl Snapshot {
    fn page(&self, offset: usize, limit: usize) -> Page {
        let limit = if limit == 0 { usize::MAX } else { limit };
        let begin = offset.min(self.objects.len());
        let end = begin.saturating_add(limit).min(self.objects.len());
        let left = self.objects.len() - end;
        Page {
            revision: self.revision,
            objects: self.objects[begin..end].to_vec(),
            rest: (left > 0).then(|| (format!("{}-{end}", self.list), left)),
        }
    }
}

/// A watch's line that ends it.
pub(super) fn error_line(refused: &Refused) -> Bytes {
    format!("{}\n", json!({"type": "ERROR", "object": refused.status()})).into()
}

/// A time as objects have it, whole seconds.
pub(super) fn rfc3339(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn bookmark(kind: Kind, revision: u64, initial_events_end: bool) -> Bytes {
    let mut metadata = json!({
        "resourceVersion": revision.to_string(),
        "creationTimestamp": null,
    });
    if initial_events_end {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    let object = json!({
        "kind": kind.name(),
        "apiVersion": kind.api_version(),
        "metadata": metadata,
    });
    format!("{}\n", json!({"type": "BOOKMARK", "object": object})).into()
}

/// The generation, which counts changes of what is wished for; `None` for kinds without wishes.
fn generation(before: Option<&Fields>, now: &Fields) -> Option<u64> {
    let spec = now.get("spec")?;
    let Some(before) = before else { return Some(1) };
    let generation = before["metadata"]["generation"].as_u64().unwrap_or(1);
    Some(generation + u64::from(before.get("spec") != Some(spec)))
}

/// Fields without those that change by themselves.
fn unversioned(mut fields: Fields) -> Fields {
    fields.remove("apiVersion");
    fields.remove("kind");
    if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
        metadata.remove("resourceVersion");
        for entry in metadata
            .get_mut("managedFields")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
            .filter_map(Value::as_object_mut)
        {
            entry.remove("time");
        }
    }
    fields
}
