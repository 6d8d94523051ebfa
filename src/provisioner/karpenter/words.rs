//! What Karpenter says of machines it gives up. Pure.
//!
//! A stock-out deletes the claim at once; what stays is a Warning Event about an object that is no more. The Event is
//! looked for by the claim's name and UID.

use k8s_openapi::api::core::v1::Event;
use trainyard_model::node::seen::{GivenUp, LastWords};

/// The meaning of an Event about a NodeClaim; `None` when it is no last word.
pub fn last_words(event: &Event) -> Option<LastWords> {
    let about = &event.involved_object;
    if about.kind.as_deref() != Some("NodeClaim") {
        return None;
    }
    let said = event.message.as_deref().unwrap_or_default();
    let cause = match event.reason.as_deref()? {
        // The core's word for every launch that its provider refuses for good, and Azure's for one that fails later.
        "InsufficientCapacityError" | "AsyncProvisioningError" => refusal(said),
        "NodeClassNotReady" => GivenUp::Refused,
        "SpotInterrupted" | "CapacityReservationInstanceInterrupted" => GivenUp::Preempted,
        _ => return None,
    };
    Some(LastWords {
        name: about.name.clone()?,
        uid: about.uid.clone()?,
        cause,
        message: without_prefix(said).to_owned(),
    })
}

/// Tells a quota from a stock-out, and both from a class that does not exist, by the code words of the providers.
pub fn refusal(said: &str) -> GivenUp {
    const QUOTA: [&str; 5] =
        ["quota", "limitexceeded", "limit exceeded", "maxspotinstancecount", "maximum number of"];
    let said = said.to_ascii_lowercase();
    if QUOTA.iter().any(|word| said.contains(word)) {
        GivenUp::Quota
    } else if said.contains("nodeclass") && (said.contains("not found") || said.contains("resolving")) {
        GivenUp::Refused
    } else {
        GivenUp::StockOut
    }
}

/// The message without `NodeClaim x event: `, which Karpenter puts before the provider's words.
fn without_prefix(said: &str) -> &str {
    match said.split_once(" event: ") {
        Some((before, rest)) if before.starts_with("NodeClaim ") => rest,
        _ => said,
    }
}
