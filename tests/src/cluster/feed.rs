//! One watch stream: takes what the store says and sends it, with the faults that are on.
//!
//! It keeps the order of its items, whatever the faults. Started by `answer`; its pieces are sent
//! by `connection`.

use std::{mem, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    sync::{
        mpsc::{Sender, UnboundedReceiver},
        oneshot,
        watch::Receiver,
    },
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{
    Kind,
    connection::Piece,
    faults::{Faults, KindState, State, Trickle},
    store::{Item, Sort},
    written::Mark,
};

/// Items are gathered into one piece up to about this size.
const PIECE_BYTES: usize = 64 * 1024;

/// A stream that is being sent.
pub(super) struct Feed {
    pub(super) kind: Kind,
    /// The store's number of the stream.
    pub(super) id: u64,
    pub(super) items: UnboundedReceiver<Item>,
    pub(super) faults: Faults,
    pub(super) out: Sender<Piece>,
    pub(super) bookmarks: bool,
    /// When the client wants it to end.
    pub(super) end: Option<Instant>,
}

/// The stream is over: ended, broken, or given up by the client.
struct Over;

impl Feed {
    pub(super) async fn run(mut self) {
        let mut faults = self.faults.state.subscribe();
        // Over is over: there is nobody to tell why.
        let _over = self.send_all(&mut faults).await;
    }

    async fn send_all(&mut self, faults: &mut Receiver<State>) -> Result<(), Over> {
        let begun = faults.borrow().of(self.kind);
        let far = Instant::now() + Duration::from_secs(365 * 24 * 3600);
        let mut last_bookmark = Instant::now();
        let mut next: Option<Item> = None;
        loop {
            let (now, every) = {
                let state = faults.borrow_and_update();
                (state.of(self.kind), state.bookmarks_every)
            };
            if now.breaks != begun.breaks {
                return self.break_off(Bytes::new()).await;
            }
            if now.ends != begun.ends {
                return Ok(());
            }
            tokio::select! {
                biased;
                changed = faults.changed() => changed.map_err(|_| Over)?,
                () = self.out.closed() => return Err(Over),
                () = sleep_until(self.end.unwrap_or(far)) => return Ok(()),
                () = sleep_until(last_bookmark + every), if self.bookmarks => {
                    last_bookmark = Instant::now();
                    self.faults.store.bookmark(self.kind, Some(self.id));
                }
                item = self.items.recv(), if next.is_none() => {
                    next = Some(item.ok_or(Over)?);
                }
                () = sleep_until(due(next.as_ref(), now)), if may_go(next.as_ref(), now) => {
                    if let Some(item) = next.take() {
                        next = self.send(item, now).await?;
                    }
                }
            }
        }
    }

    /// Sends an item; gives back one that was taken and not sent.
    async fn send(&mut self, item: Item, faults: KindState) -> Result<Option<Item>, Over> {
        if item.sort == Sort::Event && faults.cuts > 0 && self.faults.take_cut(self.kind) {
            self.break_off(item.line.slice(..item.line.len() / 2))
                .await?;
        }
        let plain = !faults.duplicate && faults.trickle.is_none() && faults.delay.is_zero();
        if plain && faults.cuts == 0 {
            return self.send_plain(item).await;
        }
        let mut line = item.line;
        if faults.duplicate && item.sort == Sort::Event {
            line = [&line[..], &line[..]].concat().into();
        }
        let marks = item.mark.into_iter().collect();
        match faults.trickle {
            Some(trickle) => self.send_slowly(line, marks, trickle).await?,
            None => self.piece(line, marks).await?,
        }
        if item.sort == Sort::Error {
            return Err(Over);
        }
        Ok(None)
    }

    /// Sends an item and those that wait behind it, without faults.
    async fn send_plain(&mut self, item: Item) -> Result<Option<Item>, Over> {
        let Ok(second) = self.items.try_recv() else {
            let over = item.sort == Sort::Error;
            self.piece(item.line, item.mark.into_iter().collect())
                .await?;
            return if over { Err(Over) } else { Ok(None) };
        };
        let mut gathered = BytesMut::with_capacity(PIECE_BYTES);
        let mut marks = Vec::new();
        let mut over = false;
        for item in [item, second] {
            gather(item, &mut gathered, &mut marks, &mut over);
        }
        while gathered.len() < PIECE_BYTES && !over {
            let Ok(item) = self.items.try_recv() else {
                break;
            };
            gather(item, &mut gathered, &mut marks, &mut over);
        }
        self.piece(gathered.freeze(), marks).await?;
        if over { Err(Over) } else { Ok(None) }
    }

    async fn send_slowly(
        &mut self,
        mut line: Bytes,
        mut marks: Vec<Mark>,
        trickle: Trickle,
    ) -> Result<(), Over> {
        while !line.is_empty() {
            let piece = line.split_to(trickle.piece_bytes.min(line.len()));
            let told = if line.is_empty() {
                mem::take(&mut marks)
            } else {
                Vec::new()
            };
            self.piece(piece, told).await?;
            sleep(trickle.pause).await;
        }
        Ok(())
    }

    /// Sends what is given, lets it reach the wire, and breaks the connection.
    async fn break_off(&mut self, rest: Bytes) -> Result<(), Over> {
        if !rest.is_empty() {
            let (sender, sent) = oneshot::channel();
            let mark: Mark = Box::new(move |_| {
                let _ = sender.send(());
            });
            self.piece(rest, vec![mark]).await?;
            // A client that does not read gets it without the rest.
            let _ = timeout_at(Instant::now() + Duration::from_secs(1), sent).await;
        }
        let _ = self.out.send(Piece::Break).await;
        Err(Over)
    }

    async fn piece(&self, bytes: Bytes, marks: Vec<Mark>) -> Result<(), Over> {
        self.out
            .send(Piece::Bytes(bytes, marks))
            .await
            .map_err(|_| Over)
    }
}

fn gather(item: Item, gathered: &mut BytesMut, marks: &mut Vec<Mark>, over: &mut bool) {
    gathered.extend_from_slice(&item.line);
    marks.extend(item.mark);
    *over |= item.sort == Sort::Error;
}

/// Whether there is an item that is not held back. What ends a stream is not about the kind.
fn may_go(item: Option<&Item>, faults: KindState) -> bool {
    item.is_some_and(|item| !faults.held || item.sort == Sort::Error)
}

/// When an item may be sent.
fn due(item: Option<&Item>, faults: KindState) -> Instant {
    match item {
        Some(item) if item.sort != Sort::Initial => Instant::from_std(item.born + faults.delay),
        _ => Instant::now(),
    }
}
