//! The VmSizes that come with trainyard: those of `deploy/vmsizes`, embedded for tools that run without a cluster.
//!
//! In a cluster the objects count, which an administrator may add to and change; nobody there reads this list.

use crate::VmSize;

/// File name and text of each file of `deploy/vmsizes`.
pub const FILES: [(&str, &str); 13] = [
    ("aws-g.yaml", include_str!("../../deploy/vmsizes/aws-g.yaml")),
    ("aws-p.yaml", include_str!("../../deploy/vmsizes/aws-p.yaml")),
    ("aws-retired.yaml", include_str!("../../deploy/vmsizes/aws-retired.yaml")),
    ("azure-d.yaml", include_str!("../../deploy/vmsizes/azure-d.yaml")),
    ("azure-e.yaml", include_str!("../../deploy/vmsizes/azure-e.yaml")),
    ("azure-f.yaml", include_str!("../../deploy/vmsizes/azure-f.yaml")),
    ("azure-nc.yaml", include_str!("../../deploy/vmsizes/azure-nc.yaml")),
    ("azure-nd.yaml", include_str!("../../deploy/vmsizes/azure-nd.yaml")),
    ("azure-nv.yaml", include_str!("../../deploy/vmsizes/azure-nv.yaml")),
    ("azure-retired.yaml", include_str!("../../deploy/vmsizes/azure-retired.yaml")),
    ("gcp-a2.yaml", include_str!("../../deploy/vmsizes/gcp-a2.yaml")),
    ("gcp-a3.yaml", include_str!("../../deploy/vmsizes/gcp-a3.yaml")),
    ("gcp-g2.yaml", include_str!("../../deploy/vmsizes/gcp-g2.yaml")),
];

/// The VmSizes that come with trainyard.
pub fn shipped_vm_sizes() -> Vec<VmSize> {
    FILES
        .iter()
        .flat_map(|(_, text)| {
            serde_saphyr::from_multiple::<VmSize>(text)
                .expect("the embedded files are read by a test of this crate")
        })
        .collect()
}
