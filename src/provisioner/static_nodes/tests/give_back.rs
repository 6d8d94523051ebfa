//! Giving a Node back: what stays on it, and when it is not given back.

use super::*;

/// What the administrator does to a Node, and whether that was before it was taken or meanwhile.
type Deed = fn(&mut Node);

fn taint(node: &mut Node, key: &str, value: &str) {
    let taint = json!({"key": key, "value": value, "effect": "NoSchedule"});
    let spec = node.spec.as_mut().unwrap();
    spec.taints.get_or_insert_default().push(serde_json::from_value(taint).unwrap());
}

#[rstest]
#[case::nothing(|_: &mut Node| {}, |_: &mut Node| {})]
#[case::the_same_taint_before(|node: &mut Node| taint(node, "trainyard.dev/cluster", "gpu"), |_: &mut Node| {})]
#[case::a_taint_meanwhile(|_: &mut Node| {}, |node: &mut Node| taint(node, "example.org/repair", "soon"))]
#[case::a_label_meanwhile(|_: &mut Node| {}, |node: &mut Node| _ = node.labels_mut().insert("example.org/seen".into(), "yes".into()))]
#[case::a_cordon_meanwhile(|_: &mut Node| {}, |node: &mut Node| node.spec.as_mut().unwrap().unschedulable = Some(true))]
#[tokio::test(start_paused = true)]
async fn what_the_administrator_set_stays_and_nothing_else(#[case] before: Deed, #[case] meanwhile: Deed) {
    let bed = Bed::with(&["vm-1"]).await;
    bed.server.edit("", "vm-1", before);
    let mut expected = bed.node("vm-1");
    meanwhile(&mut expected);
    bed.taken(&node(1)).await;
    bed.server.edit("", "vm-1", meanwhile);
    assert_eq!(bed.give_back(&node(1), Drain::Wait).await, ReleaseOutcome::Started);
    assert_eq!(looks(&bed.node("vm-1")), looks(&expected));
}

#[tokio::test(start_paused = true)]
async fn a_cordon_of_ours_goes_and_one_of_the_administrator_s_stays() {
    for (mark, left) in [(true, None), (false, Some(true))] {
        let bed = Bed::with(&["vm-1"]).await;
        bed.taken(&node(1)).await;
        bed.server.edit("", "vm-1", |node: &mut Node| {
            node.spec.as_mut().unwrap().unschedulable = Some(true);
            if mark {
                node.labels_mut().insert(node_labels::CORDONED.to_owned(), "true".to_owned());
            }
        });
        bed.give_back(&node(1), Drain::Wait).await;
        assert_eq!(bed.node("vm-1").spec.unwrap().unschedulable, left);
        assert!(!bed.node("vm-1").labels().contains_key(node_labels::CORDONED));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_node_is_not_given_back() {
    let bed = Bed::with(&["vm-1"]).await;
    bed.taken(&node(1)).await;
    kubelet(&bed.server, "vm-1", "Unknown");
    let outcome = bed.give_back(&node(1), Drain::Skip).await;
    assert!(matches!(&outcome, ReleaseOutcome::Refused(why) if why.contains("vm-1")), "{outcome:?}");
    assert!(marks::cluster_uid(bed.node("vm-1").labels()).is_some());
    kubelet(&bed.server, "vm-1", "True");
    assert_eq!(bed.give_back(&node(1), Drain::Skip).await, ReleaseOutcome::Started);
}
