//! The shipped VmSizes are whole, agree with each other, and lead from a retired size to one that is sold.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use kube::core::cel::{Validator, compile_schema};
use regex::Regex;
use trainyard_api::capacity::bytes;
use trainyard_api::shipped::{FILES, shipped_vm_sizes};
use trainyard_api::vm_size::{SIZE_NAME_PATTERN, object_name};
use trainyard_api::{VmSize, all_crds};

static SIZES: LazyLock<Vec<VmSize>> = LazyLock::new(shipped_vm_sizes);

fn find(asked: &str) -> VmSize {
    let found: Vec<_> = SIZES.iter().filter(|size| size.spec.answers_to(asked)).collect();
    assert_eq!(found.len(), 1, "{asked}");
    found[0].clone()
}

/// The sizes whose names start like that.
fn of(series: &str) -> impl Iterator<Item = &VmSize> {
    SIZES.iter().filter(move |size| size.spec.size_name.starts_with(series))
}

fn accelerators(asked: &str) -> Vec<(String, i32, String)> {
    let size = find(asked).spec;
    size.accelerators.into_iter().map(|a| (a.resource_name, a.count, a.product)).collect()
}

#[test]
fn every_file_of_the_folder_is_shipped() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/vmsizes");
    let present: BTreeSet<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(present, FILES.iter().map(|(name, _)| (*name).to_owned()).collect());
}

#[test]
fn no_name_is_claimed_twice_in_any_case() {
    let mut claimed = BTreeMap::new();
    for size in SIZES.iter() {
        for name in std::iter::once(&size.spec.size_name).chain(&size.spec.aliases) {
            let other = claimed.insert(name.to_ascii_lowercase(), size.spec.size_name.clone());
            assert_eq!(other, None, "{name} is claimed by two sizes");
        }
    }
    assert!(claimed.len() > 300);
}

#[test]
fn every_object_is_named_after_its_size_and_keeps_the_rules() {
    let crd = all_crds().into_iter().find(|crd| crd.spec.names.kind == "VmSize").unwrap();
    let version = serde_json::to_value(&crd.spec.versions[0]).unwrap();
    let schema = compile_schema(&version["schema"]["openAPIV3Schema"]);
    let validator = Validator::new();
    for size in SIZES.iter() {
        assert_eq!(size.metadata.name, Some(object_name(&size.spec.size_name)));
        let object = serde_json::to_value(size).unwrap();
        assert_eq!(validator.validate_compiled(&schema, &object, None), Ok(()), "{}", size.spec.size_name);
    }
}

/// An object's name is a DNS subdomain; what is sent to an engine becomes the label for the instance type.
#[test]
fn every_name_is_one_that_kubernetes_takes() {
    let subdomain = Regex::new("^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$").unwrap();
    let label_value = Regex::new("^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$").unwrap();
    let size_name = Regex::new(SIZE_NAME_PATTERN).unwrap();
    for VmSize { metadata, spec, .. } in SIZES.iter() {
        let name = metadata.name.as_ref().unwrap();
        assert!(subdomain.is_match(name), "{name}");
        assert!(label_value.is_match(spec.instance_type("karpenter")), "{name}");
        for claimed in std::iter::once(&spec.size_name).chain(&spec.aliases) {
            assert!(size_name.is_match(claimed), "{claimed}");
        }
    }
}

#[test]
fn a_dot_in_a_size_stays_in_the_name_of_its_object() {
    assert_eq!(object_name("p4d.24xlarge"), "p4d.24xlarge");
    assert_eq!(object_name("Standard_NC6s_v3"), "standard-nc6s-v3");
    assert_eq!(find("P4D.24XLarge").metadata.name.as_deref(), Some("p4d.24xlarge"));
}

#[test]
fn facts_are_plausible() {
    for VmSize { spec, .. } in SIZES.iter() {
        let gib = bytes(&spec.memory).unwrap() >> 30;
        let per_cpu = gib as f64 / f64::from(spec.vcpus);
        assert!((1.0..=32.0).contains(&per_cpu), "{}: {gib} GiB for {} vCPUs", spec.size_name, spec.vcpus);
        let has_only_cpus = ["Standard_D", "Standard_E", "Standard_F"];
        let has_only_cpus = has_only_cpus.iter().any(|series| spec.size_name.starts_with(series));
        assert_eq!(spec.accelerators.is_empty(), has_only_cpus, "{}", spec.size_name);
        for accelerator in &spec.accelerators {
            assert!(["nvidia.com/gpu", "amd.com/gpu"].contains(&accelerator.resource_name.as_str()));
            let most = if spec.size_name.ends_with("-16g") { 16 } else { 8 };
            assert!(accelerator.count <= most, "{}", spec.size_name);
        }
    }
}

/// Most names of Azure's sizes have their number of vCPUs in them; the v2 sizes of D have a running number.
#[test]
fn the_number_in_a_name_of_azure_is_its_vcpus() {
    for VmSize { spec, .. } in of("Standard_") {
        let name = spec.size_name.trim_start_matches("Standard_").trim_start_matches(char::is_alphabetic);
        let number: i32 = name.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
        let running_number =
            spec.family.starts_with("standardDv2") || spec.family.starts_with("standardDSv2");
        assert!(running_number || number == spec.vcpus, "{} has {} vCPUs", spec.size_name, spec.vcpus);
    }
}

/// AWS's `xlarge` is 4 vCPUs, and a number before it a factor.
#[test]
fn the_factor_in_a_name_of_aws_gives_its_vcpus() {
    let mut metal = Vec::new();
    for VmSize { spec, .. } in SIZES.iter().filter(|size| size.spec.size_name.contains('.')) {
        match spec.size_name.split_once('.').unwrap().1 {
            "metal" => metal.push((spec.size_name.as_str(), spec.vcpus)),
            size => {
                let factor = size.strip_suffix("xlarge").unwrap();
                let factor = if factor.is_empty() { 1 } else { factor.parse().unwrap() };
                assert_eq!(spec.vcpus, 4 * factor, "{}", spec.size_name);
            }
        }
    }
    assert_eq!(metal, [("g4dn.metal", 96), ("g5g.metal", 64)]);
}

/// Google's A sizes have the number of their accelerators in their names, and its G sizes that of their vCPUs.
#[test]
fn the_number_in_a_name_of_google_is_its_accelerators_or_vcpus() {
    for VmSize { spec, .. } in of("a") {
        let number = spec.size_name.rsplit_once('-').unwrap().1.strip_suffix('g').unwrap();
        assert_eq!(spec.accelerators[0].count.to_string(), number, "{}", spec.size_name);
    }
    for VmSize { spec, .. } in of("g2-standard-") {
        assert_eq!(spec.size_name, format!("g2-standard-{}", spec.vcpus));
    }
}

#[test]
fn every_series_is_shipped_with_all_its_sizes() {
    for (series, expected) in [
        ("p3dn.", 1),
        ("p4d.", 1),
        ("p4de.", 1),
        ("p5.", 2),
        ("p5e.", 1),
        ("p5en.", 1),
        ("p6-b200.", 1),
        ("p6-b300.", 1),
        ("g4dn.", 7),
        ("g4ad.", 5),
        ("g5.", 8),
        ("g5g.", 6),
        ("g6.", 8),
        ("gr6.", 2),
        ("g6e.", 8),
        ("g7.", 6),
        ("g7e.", 6),
        ("a2-highgpu-", 4),
        ("a2-megagpu-", 1),
        ("a2-ultragpu-", 4),
        ("a3-highgpu-", 4),
        ("a3-megagpu-", 1),
        ("a3-edgegpu-", 1),
        ("a3-ultragpu-", 1),
        ("g2-standard-", 8),
    ] {
        assert_eq!(of(series).filter(|size| size.spec.retired.is_none()).count(), expected, "{series}");
    }
}

/// Written by hand, one size or more of each series, not read from what is shipped.
#[test]
fn facts_are_those_written_down_by_hand() {
    for (asked, vcpus, gib, count, product) in [
        ("p3.16xlarge", 64, 488, 8, "V100-16GB"),
        ("p3dn.24xlarge", 96, 768, 8, "V100-32GB"),
        ("p4d.24xlarge", 96, 1152, 8, "A100-40GB"),
        ("p4de.24xlarge", 96, 1152, 8, "A100-80GB"),
        ("p5.48xlarge", 192, 2048, 8, "H100-80GB"),
        ("p5en.48xlarge", 192, 2048, 8, "H200-141GB"),
        ("p6-b200.48xlarge", 192, 2048, 8, "B200-192GB"),
        ("p6-b300.48xlarge", 192, 4096, 8, "B300-288GB"),
        ("g4dn.12xlarge", 48, 192, 4, "T4-16GB"),
        ("g5.xlarge", 4, 16, 1, "A10G-24GB"),
        ("g5g.16xlarge", 64, 128, 2, "T4G-16GB"),
        ("g6.48xlarge", 192, 768, 8, "L4-24GB"),
        ("gr6.8xlarge", 32, 256, 1, "L4-24GB"),
        ("g6e.24xlarge", 96, 768, 4, "L40S-48GB"),
        ("g7e.12xlarge", 48, 512, 2, "RTX-PRO-6000-96GB"),
        ("a2-highgpu-1g", 12, 85, 1, "A100-40GB"),
        ("a2-megagpu-16g", 96, 1360, 16, "A100-40GB"),
        ("a2-ultragpu-4g", 48, 680, 4, "A100-80GB"),
        ("a3-highgpu-2g", 52, 468, 2, "H100-80GB"),
        ("a3-megagpu-8g", 208, 1872, 8, "H100-80GB"),
        ("a3-edgegpu-8g", 208, 1872, 8, "H100-80GB"),
        ("a3-ultragpu-8g", 224, 2952, 8, "H200-141GB"),
        ("g2-standard-24", 24, 96, 2, "L4-24GB"),
        ("g2-standard-32", 32, 128, 1, "L4-24GB"),
    ] {
        let spec = find(asked).spec;
        assert_eq!((spec.vcpus, bytes(&spec.memory).unwrap() >> 30), (vcpus, gib), "{asked}");
        assert_eq!(
            accelerators(asked),
            [("nvidia.com/gpu".to_owned(), count, product.to_owned())],
            "{asked}"
        );
    }
    assert_eq!(accelerators("g4ad.16xlarge"), [("amd.com/gpu".to_owned(), 4, "V520-8GB".to_owned())]);
}

#[test]
fn low_priority_is_refused_where_the_cloud_has_none() {
    let sold_at_full_price_only: Vec<_> = SIZES
        .iter()
        .filter(|size| size.spec.retired.is_none() && !size.spec.spot_capable)
        .map(|size| size.spec.size_name.as_str())
        .collect();
    assert_eq!(sold_at_full_price_only, ["p5e.48xlarge"]);
}

#[test]
fn a_retired_size_leads_to_one_that_is_sold() {
    let mut retired = 0;
    for VmSize { spec, .. } in SIZES.iter() {
        let Some(end) = &spec.retired else { continue };
        retired += 1;
        assert!(end.since.parse::<jiff::civil::Date>().is_ok(), "{}", spec.size_name);
        let successor = find(&end.successor).spec;
        assert_eq!(successor.size_name, end.successor, "a successor is named as the cloud writes it");
        assert_eq!(successor.retired, None, "{} leads to another retired size", spec.size_name);
        assert!(!spec.spot_capable, "{}", spec.size_name);
    }
    assert_eq!(retired, 25);
}

#[test]
fn names_from_old_scripts_lead_somewhere() {
    for (asked, successor) in [
        ("STANDARD_NC6", "Standard_NC4as_T4_v3"),
        ("Standard_NC12", "Standard_NC16as_T4_v3"),
        ("standard_nc24", "Standard_NC64as_T4_v3"),
        ("Standard_NC6_Promo", "Standard_NC4as_T4_v3"),
        ("Standard_NC6s_v2", "Standard_NC24ads_A100_v4"),
        ("Standard_ND6s", "Standard_NC4as_T4_v3"),
        ("Standard_NV6", "Standard_NV6ads_A10_v5"),
        ("p3.2xlarge", "g6e.2xlarge"),
    ] {
        assert_eq!(find(asked).spec.retired.unwrap().successor, successor, "{asked}");
    }
}

#[test]
fn the_size_of_the_examples_can_be_used() {
    let size = find("STANDARD_NC6S_V3").spec;
    assert_eq!(size.retired, None);
    assert_eq!(
        (size.size_name.as_str(), size.vcpus, size.memory.0.as_str()),
        ("Standard_NC6s_v3", 6, "112Gi")
    );
}

#[test]
fn accelerators_are_those_of_the_vendors_tables() {
    let nvidia = |count, product: &str| vec![("nvidia.com/gpu".to_owned(), count, product.to_owned())];
    assert_eq!(accelerators("Standard_NC6s_v3"), nvidia(1, "V100-16GB"));
    assert_eq!(accelerators("Standard_NC64as_T4_v3"), nvidia(4, "T4-16GB"));
    assert_eq!(accelerators("Standard_NC96ads_A100_v4"), nvidia(4, "A100-80GB"));
    assert_eq!(accelerators("Standard_ND40rs_v2"), nvidia(8, "V100-32GB"));
    assert_eq!(accelerators("Standard_ND96asr_v4"), nvidia(8, "A100-40GB"));
    assert_eq!(accelerators("Standard_ND96asr_A100_v4"), nvidia(8, "A100-40GB"));
    assert_eq!(accelerators("Standard_ND96isr_H200_v5"), nvidia(8, "H200-141GB"));
    assert_eq!(
        accelerators("Standard_ND96is_MI300X_v5"),
        vec![("amd.com/gpu".to_owned(), 8, "MI300X-192GB".to_owned())]
    );
    assert_eq!(accelerators("Standard_D4s_v5"), vec![]);
}
