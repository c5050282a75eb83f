//! Visitors: hosts of other clusters that look at the tree and may ask for a merge (`mars_net::Visit` is their side).
//!
//! A host of another cluster never becomes a connection of the mesh, and nothing it sends gets into the tree as it is. What it may ask is
//! checked against the tree as it is at that moment, in [`judge`]; after a merge its hosts are members and come like all others.
use crate::conn::Event;
use mars_net::{
    KIND_END, MergeAnswer, MergeRequest, VISIT_BODY_MAX, VisitLink, answer_frame, decode_request,
    tokio_io, tree_frames,
};
use mars_policy::merge::{Side, conflicts, is_cluster_id};
use mars_tree::{HostName, ResName, Snapshot};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Visitors at once: each holds a copy of the tree.
const VISITORS_MAX: usize = 4;
/// A visit takes at most this.
const VISIT: Duration = Duration::from_secs(30);

/// What the engine says to a request.
pub type Reply = oneshot::Sender<MergeAnswer>;

/// The place of a visitor; given back when the visit ends.
pub struct Place(Rc<Cell<usize>>);

impl Place {
    /// `None` when there are visitors enough.
    pub fn take(taken: &Rc<Cell<usize>>) -> Option<Place> {
        (taken.get() < VISITORS_MAX).then(|| {
            taken.set(taken.get() + 1);
            Place(taken.clone())
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Shows the tree, waits for a request, answers it.
pub async fn serve(
    place: Place,
    stream: TcpStream,
    host: String,
    (links, now): (Vec<VisitLink>, u64),
    events: mpsc::Sender<Event>,
) {
    if timeout(VISIT, show(stream, host.clone(), links, now, events))
        .await
        .is_err()
    {
        tracing::debug!("visitor {host} takes too long");
    }
    drop(place);
}

async fn show(
    mut stream: TcpStream,
    host: String,
    links: Vec<VisitLink>,
    now: u64,
    events: mpsc::Sender<Event>,
) {
    for frame in tree_frames(links, now) {
        if stream.write_all(&frame).await.is_err() {
            return;
        }
    }
    let frame = match tokio_io::read_frame(&mut stream, VISIT_BODY_MAX).await {
        Ok(f) if f.kind != KIND_END => f,
        // It only wanted to look.
        _ => return,
    };
    let request = match decode_request(frame.kind, &frame.body) {
        Ok(r) => r,
        Err(e) => {
            tracing::warn!("visitor {host}: {e}");
            return;
        }
    };
    let (reply, answer) = oneshot::channel();
    let asked = Event::Asked(host, request, reply);
    if events.send(asked).await.is_err() {
        return;
    }
    if let Ok(answer) = answer.await {
        let _ = stream.write_all(&answer_frame(&answer)).await;
        let _ = stream.shutdown().await;
    }
}

/// The cluster that a request describes, checked for its form.
fn side(request: &MergeRequest) -> Result<Side, String> {
    if !is_cluster_id(&request.from) {
        return Err(format!("{:?} is no id of a cluster", request.from));
    }
    let name = |e: mars_tree::NameError| e.to_string();
    let mut hosts = BTreeMap::new();
    for (host, ip) in &request.hosts {
        let parsed: IpAddr = ip
            .parse()
            .map_err(|_| format!("host {host:?} has no address"))?;
        if parsed.is_unspecified() || parsed.is_multicast() {
            return Err(format!("{ip} is no address of a single host"));
        }
        hosts.insert(host.parse::<HostName>().map_err(name)?, parsed);
    }
    let mut resources = BTreeMap::new();
    for (res, members) in &request.resources {
        let members: Result<BTreeSet<HostName>, _> = members.iter().map(|m| m.parse()).collect();
        resources.insert(
            res.parse::<ResName>().map_err(name)?,
            members.map_err(name)?,
        );
    }
    Ok(Side {
        uuid: request.from.clone(),
        hosts,
        resources,
    })
}

/// May the cluster of `visitor` be let in? Returns it. Everything is looked at again here: between the visitor's look and its request
/// somebody may have made a resource, or another merge may have gone through.
pub fn judge(snap: &Snapshot, visitor: &str, request: &MergeRequest) -> Result<Side, String> {
    let ours = Side::of(snap);
    if !is_cluster_id(&ours.uuid) {
        return Err("this host is in no cluster".into());
    }
    if request.into != ours.uuid {
        return Err(format!(
            "this cluster is {:?}, not {:?}; it has changed meanwhile, try again",
            ours.uuid, request.into
        ));
    }
    let theirs = side(request)?;
    if !theirs.hosts.keys().any(|h| h.as_str() == visitor) {
        return Err(format!(
            "{visitor} is no member of the cluster it speaks for"
        ));
    }
    let found: Vec<String> = conflicts(&ours, &theirs)
        .iter()
        .take(20)
        .map(ToString::to_string)
        .collect();
    match found.is_empty() {
        true => Ok(theirs),
        false => Err(found.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use mars_tree::{Key, Stamp};

    fn ours() -> Snapshot {
        let mut s = Snapshot::default();
        for (path, value) in [
            ("uuid", "alpha_1.000000000"),
            ("ips/ip-alpha", "127.0.0.2"),
            ("resource-one/data-alpha", "/dev/vg/one"),
        ] {
            s.insert(&Key::parse(path), value, Stamp::from_nanos(5));
        }
        s
    }

    fn request() -> MergeRequest {
        MergeRequest {
            now: 9,
            from: "beta_2.000000000".into(),
            into: "alpha_1.000000000".into(),
            hosts: vec![("beta".into(), "127.0.0.3".into())],
            resources: vec![("two".into(), vec!["beta".into()])],
        }
    }

    #[test]
    fn requests_that_fit_are_let_in() {
        let side = judge(&ours(), "beta", &request()).unwrap();
        assert_eq!(side.hosts.len(), 1);
        assert_eq!(side.resources.len(), 1);
    }

    #[test]
    fn requests_are_refused_with_the_reason() {
        type Change = fn(&mut MergeRequest);
        let cases: [(Change, &str); 13] = [
            (|r| r.into = "gamma_3.000000000".into(), "changed meanwhile"),
            (|r| r.from = "(any)".into(), "no id"),
            (|r| r.from = "a/b".into(), "no id"),
            (|r| r.from = String::new(), "no id"),
            (
                |r| r.hosts.clear(),
                "no member of the cluster it speaks for",
            ),
            (|r| r.hosts[0].0 = "a b".into(), "a b"),
            (|r| r.hosts[0].1 = "x".into(), "no address"),
            (|r| r.hosts[0].1 = "0.0.0.0".into(), "single host"),
            (|r| r.hosts[0].1 = "127.0.0.2".into(), "both have address"),
            (
                |r| r.hosts.push(("alpha".into(), "127.0.0.9".into())),
                "host alpha",
            ),
            (
                |r| r.hosts.push(("x-alpha".into(), "127.0.0.9".into())),
                "ending",
            ),
            (
                |r| r.resources[0].0 = "one".into(),
                "resource one exists in both",
            ),
            (|r| r.resources[0].0 = "../x".into(), "../x"),
        ];
        for (change, word) in cases {
            let mut r = request();
            change(&mut r);
            let e = judge(&ours(), "beta", &r).unwrap_err();
            assert!(e.contains(word), "{word}: {e}");
        }
        assert!(judge(&ours(), "gamma", &request()).is_err());
        let mut joining = ours();
        joining.insert(&Key::Uuid, "(any)", Stamp::from_nanos(6));
        let mut r = request();
        r.into = "(any)".into();
        assert!(
            judge(&joining, "beta", &r)
                .unwrap_err()
                .contains("in no cluster")
        );
        assert!(judge(&Snapshot::default(), "beta", &request()).is_err());
    }
}
