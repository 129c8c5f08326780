//! Tells the journal what shows only in numbers or in the state: refusals, rejected
//! configurations, and what is wrong with objects of the source.
//!
//! Whoever refuses only counts, and pays nothing for being watched; while anyone listens, the
//! counts are looked at every 100 ms (less often if that would take too much time) and what they
//! grew by is told. Run by `serve`.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use imbl::OrdMap;
use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use super::{
    Context,
    serve::told_to_stop,
    tally::{REASONS, Refused, Tallies},
};
use crate::{
    journal::{Happening, Kind},
    kernel::KernelError,
    model::ServiceName,
    occupancy::Names,
    state::{ObjectProblem, Snapshot},
};

/// From one look at the refusals to the next.
const EVERY: Duration = Duration::from_millis(100);
/// A look may take this part of the time at most.
const SHARE: u32 = 20;

/// The refusals that were told already; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct ToldRefusals(Arc<Mutex<BTreeMap<ServiceName, Refused>>>);

impl ToldRefusals {
    /// Counts what was refused so far as told. To be called before someone begins to listen.
    pub(super) fn begin(&self, context: &Context) -> Result<(), KernelError> {
        // Whoever listens already must not miss anything.
        if !context.journal.is_watched() {
            self.look(context)?;
        }
        Ok(())
    }

    /// What was refused since the last look. Of a service that is new, everything.
    fn look(&self, context: &Context) -> Result<Vec<Happening>, KernelError> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let names = Names::of(&context.progress.assignment());
        let tallies = Tallies::new(context, &names);
        let mut now = BTreeMap::new();
        for (_, named) in names.by_name() {
            now.insert(named.name.clone(), tallies.of(&named.name)?.refused());
        }
        let news = differences(&told, &now);
        *told = now;
        Ok(news)
    }
}

fn differences(
    before: &BTreeMap<ServiceName, Refused>,
    now: &BTreeMap<ServiceName, Refused>,
) -> Vec<Happening> {
    let mut news = Vec::new();
    for (name, refused) in now {
        let before = before.get(name);
        for reason in REASONS {
            let count = |refused: &Refused| refused.get(reason).copied().unwrap_or(0);
            // A service that came into the kernel anew counts from 0.
            let grown = count(refused).saturating_sub(before.map_or(0, count));
            if grown > 0 {
                news.push(Happening::refusals(reason, grown).service(name.clone()));
            }
        }
    }
    news
}

/// Watches until `stopped` says so.
pub(super) async fn watch(context: Context, mut stopped: watch::Receiver<bool>) {
    let mut rejected = context.state.borrow().rejected;
    let mut state = context.state.clone();
    let mut wrong = Wrong::default();
    tell_wrong(&context, &state.borrow_and_update(), &mut wrong);
    let mut pause = EVERY;
    loop {
        tokio::select! {
            () = told_to_stop(&mut stopped) => return,
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
                let snapshot = state.borrow_and_update().clone();
                tell_rejected(&context, &snapshot, &mut rejected);
                tell_wrong(&context, &snapshot, &mut wrong);
            }
            () = sleep(pause) => {
                if context.journal.is_watched() {
                    pause = tell_refusals(&context).await;
                }
            }
        }
    }
}

fn tell_rejected(context: &Context, snapshot: &Snapshot, rejected: &mut u64) {
    if std::mem::replace(rejected, snapshot.rejected) == snapshot.rejected {
        return;
    }
    let file = snapshot.file.display().to_string();
    for problem in &snapshot.problems {
        let happening = Happening::new(Kind::ConfigError).reason("rejected");
        context
            .journal
            .publish(happening.detail(problem.in_file(&file).to_string()));
    }
}

fn tell_wrong(context: &Context, snapshot: &Snapshot, wrong: &mut Wrong) {
    for happening in wrong.news(snapshot) {
        context.journal.publish(happening);
    }
}

/// What is wrong with objects of the source, as far as it was told.
#[derive(Default)]
struct Wrong {
    config_errors: OrdMap<ServiceName, Arc<[ObjectProblem]>>,
    unreadable: Arc<BTreeSet<ObjectProblem>>,
    told: HashSet<ObjectProblem>,
}

impl Wrong {
    /// What has come up. A problem that stays is not told again, nor one that goes from one
    /// service to another.
    fn news(&mut self, snapshot: &Snapshot) -> Vec<Happening> {
        let is_same = self.config_errors.ptr_eq(&snapshot.config_errors)
            && Arc::ptr_eq(&self.unreadable, &snapshot.unreadable);
        if is_same {
            return Vec::new();
        }
        self.config_errors = snapshot.config_errors.clone();
        self.unreadable = snapshot.unreadable.clone();
        let before = std::mem::take(&mut self.told);
        let of_services = self
            .config_errors
            .iter()
            .flat_map(|(name, them)| them.iter().map(move |each| (Some(name), each)));
        let of_nobody = self.unreadable.iter().map(|each| (None, each));
        let mut news = Vec::new();
        for (name, problem) in of_services.chain(of_nobody) {
            if !self.told.insert(problem.clone()) || before.contains(problem) {
                continue;
            }
            let happening = Happening::new(Kind::ConfigError).reason("object");
            let happening = happening.detail(problem.to_string());
            news.push(match name {
                Some(name) => happening.service(name.clone()),
                None => happening,
            });
        }
        news
    }
}

/// Gives the time until the next look.
async fn tell_refusals(context: &Context) -> Duration {
    let begun = Instant::now();
    let worker = context.clone();
    let news = spawn_blocking(move || worker.refusals.look(&worker)).await;
    match news {
        Ok(Ok(news)) => news
            .into_iter()
            .for_each(|happening| context.journal.publish(happening)),
        Ok(Err(error)) => tracing::warn!(%error, "refusals cannot be told to those who listen"),
        // The agent stops.
        Err(_) => {}
    }
    EVERY.max(begun.elapsed() * SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Config,
        state::{Change, State},
    };

    fn refused(counts: &[(&str, u64)]) -> Refused {
        let counts = counts.iter();
        counts
            .map(|(reason, count)| ((*reason).to_owned(), *count))
            .collect()
    }

    fn problem(name: &str) -> ObjectProblem {
        ObjectProblem {
            kind: "Service".to_owned(),
            namespace: "default".to_owned(),
            name: name.to_owned(),
            annotation: None,
            message: "it is bad".to_owned(),
            hint: "make it good".to_owned(),
        }
    }

    #[test]
    fn what_is_wrong_with_objects_is_told_when_it_comes_up() {
        let loaded = Config::parse("source: kubernetes\n", "config.yaml", &|_| None).unwrap();
        let state = State::new(loaded, "config.yaml".into());
        let snapshots = state.subscribe();
        let mut wrong = Wrong::default();
        let mut news = || wrong.news(&snapshots.borrow());
        let name = |name: &str| name.parse::<ServiceName>().unwrap();
        let change = |service: &str, problems: &[&str]| Change {
            name: name(service),
            service: None,
            problems: problems.iter().copied().map(problem).collect(),
        };
        let told = |about: &str| {
            let happening = Happening::new(Kind::ConfigError).reason("object");
            happening.detail(problem(about).to_string())
        };
        assert_eq!(news(), []);
        state.amend(vec![change("default/a", &["one", "two"])]);
        let of_a = |about| told(about).service(name("default/a"));
        assert_eq!(news(), [of_a("one"), of_a("two")]);
        assert_eq!(news(), []);
        // It stays while another goes, and passes to another service.
        state.amend(vec![change("default/a", &["one"])]);
        assert_eq!(news(), []);
        state.amend(vec![
            change("default/a", &[]),
            change("default/b", &["one"]),
        ]);
        assert_eq!(news(), []);
        state.note_unreadable([problem("one"), problem("three")].into());
        assert_eq!(news(), [told("three")]);
        state.amend(vec![change("default/b", &["two"])]);
        assert_eq!(news(), [told("two").service(name("default/b"))]);
    }

    #[test]
    fn what_grew_is_told_and_what_began_anew_is_not_told_again() {
        let name = |name: &str| name.parse::<ServiceName>().unwrap();
        let before = [
            (name("a"), refused(&[("queue-full", 5), ("agent-gone", 1)])),
            (name("b"), refused(&[("queue-full", 9)])),
            (name("gone"), refused(&[("queue-full", 9)])),
        ];
        let now = [
            (name("a"), refused(&[("queue-full", 7), ("agent-gone", 1)])),
            (name("b"), refused(&[("queue-full", 0)])),
            (name("new"), refused(&[("rate-limited", 3)])),
        ];
        let expected = [
            Happening::refusals("queue-full", 2).service(name("a")),
            Happening::refusals("rate-limited", 3).service(name("new")),
        ];
        assert_eq!(differences(&before.into(), &now.into()), expected);
    }
}
