//! What is kept of what watches tell, and whom each change is about.

use std::collections::BTreeMap;

use super::*;

fn key(name: &str) -> Key {
    Key {
        namespace: "fn".into(),
        name: name.into(),
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pair = |(name, value): &(&str, &str)| ((*name).into(), (*value).into());
    pairs.iter().map(pair).collect()
}

fn selecting(pairs: &[(&str, &str)]) -> Service {
    Service {
        selector: labels(pairs),
        ..Service::default()
    }
}

fn labelled(pairs: &[(&str, &str)]) -> Deployment {
    Deployment {
        labels: labels(pairs),
        ..Deployment::default()
    }
}

fn slice(service: &str) -> Slice {
    Slice {
        service: service.into(),
        ..Slice::default()
    }
}

fn unreadable(why: &str) -> Unreadable {
    Unreadable {
        uid: None,
        why: why.to_owned(),
    }
}

/// The names of those to look at.
fn dirty(store: &mut Store) -> Vec<String> {
    let mut names: Vec<_> = store
        .take_dirty()
        .into_iter()
        .map(|key| key.name.to_string())
        .collect();
    names.sort();
    names
}

fn table(texts: &[(&str, &str)]) -> Table<String> {
    let mut table = Table::default();
    for (name, text) in texts {
        table.hear(Told::Put(key(name), (*text).to_owned()));
    }
    table
}

/// What differs: before and after, by name.
fn differences(differences: Vec<Difference<String>>) -> BTreeMap<String, (String, String)> {
    let text = |it: Option<Arc<String>>| it.map(|it| it.to_string()).unwrap_or_default();
    differences
        .into_iter()
        .map(|it| (it.key.name.to_string(), (text(it.old), text(it.new))))
        .collect()
}

fn expected<const N: usize>(all: [(&str, &str, &str); N]) -> BTreeMap<String, (String, String)> {
    all.map(|(name, old, new)| (name.to_owned(), (old.to_owned(), new.to_owned())))
        .into()
}

#[test]
fn a_list_is_swapped_in_whole_and_only_what_it_changes_is_news() {
    let mut table = table(&[
        ("stays", "1"),
        ("changes", "1"),
        ("goes", "1"),
        ("odd", "1"),
    ]);
    let before = table.get(&key("stays")).unwrap().clone();
    let heard = |table: &mut Table<String>, told| differences(table.hear(told));
    assert!(heard(&mut table, Told::Begin).is_empty());
    for (name, text) in [("stays", "1"), ("changes", "2"), ("comes", "1")] {
        assert!(heard(&mut table, Told::Listed(key(name), text.to_owned())).is_empty());
    }
    let odd = Told::ListedUnreadable(key("odd"), unreadable("no"));
    assert!(heard(&mut table, odd).is_empty());
    // Not before it is complete.
    assert_eq!(table.get(&key("changes")).unwrap().as_str(), "1");
    assert!(table.get(&key("comes")).is_none());
    assert!(!table.is_synced);
    assert_eq!(
        heard(&mut table, Told::End),
        expected([
            ("changes", "1", "2"),
            ("comes", "", "1"),
            ("goes", "1", ""),
            ("odd", "1", "1"),
        ])
    );
    assert!(table.is_synced);
    assert!(Arc::ptr_eq(&before, table.get(&key("stays")).unwrap()));
    assert_eq!(table.unreadable().len(), 1);
}

#[test]
fn a_list_that_breaks_off_leaves_nothing_behind() {
    let mut table = table(&[("a", "1")]);
    table.hear(Told::Begin);
    table.hear(Told::Listed(key("b"), "1".to_owned()));
    table.hear(Told::ListedUnreadable(key("c"), unreadable("no")));
    table.hear(Told::Begin);
    table.hear(Told::Listed(key("a"), "1".to_owned()));
    assert!(table.hear(Told::End).is_empty());
    assert!(table.get(&key("b")).is_none());
    assert!(table.unreadable().is_empty());
}

#[test]
fn what_cannot_be_read_stays_as_it_was_and_is_news_once() {
    let mut table = table(&[("a", "1")]);
    let odd = |why| Told::PutUnreadable(key("a"), unreadable(why));
    let stays = expected([("a", "1", "1")]);
    assert_eq!(differences(table.hear(odd("no"))), stays);
    assert!(table.hear(odd("no")).is_empty());
    assert_eq!(differences(table.hear(odd("still no"))), stays);
    assert_eq!(table.get(&key("a")).unwrap().as_str(), "1");
    assert_eq!(
        differences(table.hear(Told::Put(key("a"), "1".to_owned()))),
        stays
    );
    assert!(table.hear(Told::Put(key("a"), "1".to_owned())).is_empty());
    table.hear(odd("no"));
    assert_eq!(
        differences(table.hear(Told::Gone(key("a")))),
        expected([("a", "1", "")])
    );
    assert!(table.unreadable().is_empty());
    assert!(table.hear(Told::Gone(key("a"))).is_empty());
}

#[test]
fn services_are_looked_at_when_anything_of_theirs_changes() {
    let mut store = Store::default();
    store.hear_service(Told::Put(key("a"), selecting(&[("app", "a")])));
    store.hear_service(Told::Put(
        key("b"),
        selecting(&[("app", "b"), ("tier", "x")]),
    ));
    assert_eq!(dirty(&mut store), ["a", "b"]);
    store.hear_service(Told::Put(key("a"), selecting(&[("app", "a")])));
    assert!(store.is_settled());

    store.hear_deployment(Told::Put(key("d"), labelled(&[("app", "a"), ("x", "y")])));
    assert_eq!(dirty(&mut store), ["a"]);
    store.hear_deployment(Told::Put(
        key("d"),
        labelled(&[("app", "b"), ("tier", "x")]),
    ));
    assert_eq!(dirty(&mut store), ["a", "b"]);
    // One label of two is not enough.
    store.hear_deployment(Told::Put(key("e"), labelled(&[("tier", "x")])));
    assert_eq!(dirty(&mut store), [""; 0]);
    store.hear_deployment(Told::Gone(key("d")));
    assert_eq!(dirty(&mut store), ["b"]);

    store.hear_slice(Told::Put(key("s"), slice("a")));
    assert_eq!(dirty(&mut store), ["a"]);
    store.hear_slice(Told::Put(key("s"), slice("b")));
    assert_eq!(dirty(&mut store), ["a", "b"]);
    assert_eq!(store.slices_of(&key("a")).count(), 0);
    assert_eq!(store.slices_of(&key("b")).count(), 1);
    store.hear_slice(Told::PutUnreadable(key("s"), unreadable("no")));
    assert_eq!(dirty(&mut store), ["b"]);
    store.hear_slice(Told::Gone(key("s")));
    assert_eq!(dirty(&mut store), ["b"]);
    store.note_all();
    assert_eq!(dirty(&mut store), ["a", "b"]);
}

#[test]
fn a_service_goes_by_the_deployment_of_its_name_or_the_first_that_it_selects() {
    let mut store = Store::default();
    let service = selecting(&[("app", "x"), ("tier", "y")]);
    let both = [("app", "x"), ("tier", "y"), ("more", "z")];
    let name = |store: &Store| {
        let found = store.deployment_of(&key("hello"), &service);
        found.map(|(key, _)| key.name.to_string())
    };
    assert_eq!(name(&store), None);
    store.hear_deployment(Told::Put(key("zz"), labelled(&both)));
    store.hear_deployment(Told::Put(key("a"), labelled(&both[..1])));
    assert_eq!(name(&store).as_deref(), Some("zz"));
    store.hear_deployment(Told::Put(key("b"), labelled(&both)));
    assert_eq!(name(&store).as_deref(), Some("b"));
    store.hear_deployment(Told::Put(key("hello"), labelled(&both)));
    assert_eq!(name(&store).as_deref(), Some("hello"));
    store.hear_deployment(Told::Put(key("hello"), labelled(&[])));
    assert_eq!(name(&store).as_deref(), Some("b"));
    // Nobody selects with nothing.
    assert!(
        store
            .deployment_of(&key("hello"), &selecting(&[]))
            .is_none()
    );
}

#[test]
fn slices_of_ours_are_known_and_are_nobodys_backends() {
    let mut store = Store::default();
    let ours = Slice {
        is_ours: true,
        ..slice("hello")
    };
    store.hear_slice(Told::Put(key("s"), ours.clone()));
    assert_eq!(store.published.len(), 1);
    assert_eq!(store.slices_of(&key("hello")).count(), 0);
    // A list that still has it, one in which it is somebody else's, and one without it.
    for (list, expected) in [(Some(ours), 1), (Some(slice("hello")), 0), (None, 0)] {
        store.hear_slice(Told::Begin);
        if let Some(slice) = list {
            store.hear_slice(Told::Listed(key("s"), slice));
        }
        store.hear_slice(Told::End);
        assert_eq!(store.published.len(), expected);
    }
}

#[test]
fn nothing_is_left_of_what_is_gone() {
    let mut store = Store::default();
    store.hear_service(Told::Put(key("a"), selecting(&[("app", "a")])));
    store.hear_deployment(Told::Put(key("a"), labelled(&[("app", "a")])));
    store.hear_slice(Told::Put(key("a"), slice("a")));
    store.hear_service(Told::Begin);
    store.hear_service(Told::End);
    store.hear_deployment(Told::Gone(key("a")));
    store.hear_slice(Told::Gone(key("a")));
    assert!(store.by_label.0.is_empty() && store.by_selector.0.is_empty());
    assert!(store.slices_of.is_empty());
}
