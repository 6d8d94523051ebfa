//! What end-to-end stories are told with: each has a namespace of its own on a shared control plane, and helpers that
//! read as sentences.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use trainyard_api::run_status::RunPhase;
//! use trainyard_e2e::stories::{Story, cluster, run};
//!
//! let story = Story::begin("first steps").await?;
//! story.create_cluster(cluster("pool").max(4)).await?;
//! story.submit(run("training").on("pool").nodes(2).lasting("2s")).await?;
//! story.run_comes_to("training", RunPhase::Completed).await?;
//! # Ok(()) }
//! ```
//!
//! Guarantees: every wait is bounded and its error shows what the namespace holds. A story fails at its end when the operator
//! was refused anything for want of a right, unless it was the story's doing (`Stage::refusals_so_far_were_meant`). Stories share one control plane with one
//! operator; a story that stops the operator, or needs silence, begins with [`Story::begin_apart`].

mod draft;
mod expect;
mod hall;
mod random;
mod stage;
mod world;

pub use draft::{ClusterDraft, RunDraft, cluster, run};
pub use expect::{PATIENCE, budgets, placed_on, ready, started};
pub use hall::Hall;
pub use random::Random;
pub use stage::{Refusing, Stage};
pub use world::Story;
