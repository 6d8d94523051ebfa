//! Ports of one control plane: a block below the range the kernel gives to outgoing connections, so that a component
//! that is down for a moment finds its port free when it comes back.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result};

const FIRST: u16 = 20_000;
const BLOCKS: u16 = 750;
const BLOCK: u16 = 16;

/// The block that starts at `first`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub first: u16,
}

impl Ports {
    pub fn etcd(self) -> u16 {
        self.first
    }
    pub fn etcd_peer(self) -> u16 {
        self.first + 1
    }
    pub fn apiserver(self) -> u16 {
        self.first + 2
    }
    pub fn controller_manager(self) -> u16 {
        self.first + 3
    }
    pub fn scheduler(self) -> u16 {
        self.first + 4
    }
    pub fn kwok(self) -> u16 {
        self.first + 5
    }
    pub fn karpenter_health(self) -> u16 {
        self.first + 6
    }
    pub fn karpenter_metrics(self) -> u16 {
        self.first + 7
    }

    /// The upper half of the block is for what tests start beside the control plane, such as the operator.
    pub fn spare(self, index: u16) -> Option<u16> {
        (index < BLOCK / 2).then_some(self.first + BLOCK / 2 + index)
    }

    /// A block nobody listens on and no live control plane of this checkout has, searched from a place that differs
    /// from process to process, since other checkouts may search at the same moment.
    pub fn find_free_block(taken: &[u16]) -> Result<u16> {
        let start = (std::process::id() % u32::from(BLOCKS)) as u16;
        (0..BLOCKS)
            .map(|i| FIRST + (start + i) % BLOCKS * BLOCK)
            .find(|first| !taken.contains(first) && (*first..first + BLOCK).all(is_free))
            .context("no block of free ports between 20000 and 32000")
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
