//! The shipped VmSizes are whole, agree with each other, and lead from a retired size to one that is sold.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use kube::core::cel::{Validator, compile_schema};
use trainyard_api::capacity::bytes;
use trainyard_api::shipped::{FILES, shipped_vm_sizes};
use trainyard_api::vm_size::object_name;
use trainyard_api::{VmSize, all_crds};

static SIZES: LazyLock<Vec<VmSize>> = LazyLock::new(shipped_vm_sizes);

fn find(asked: &str) -> VmSize {
    let found: Vec<_> = SIZES.iter().filter(|size| size.spec.answers_to(asked)).collect();
    assert_eq!(found.len(), 1, "{asked}");
    found[0].clone()
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
    assert!(claimed.len() > 250);
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

#[test]
fn facts_are_plausible() {
    for VmSize { spec, .. } in SIZES.iter() {
        let gib = bytes(&spec.memory).unwrap() >> 30;
        let per_cpu = gib as f64 / f64::from(spec.vcpus);
        assert!((1.0..=32.0).contains(&per_cpu), "{}: {gib} GiB for {} vCPUs", spec.size_name, spec.vcpus);
        let is_n = spec.size_name.starts_with("Standard_N");
        assert_eq!(!spec.accelerators.is_empty(), is_n, "{}", spec.size_name);
        for accelerator in &spec.accelerators {
            assert!(["nvidia.com/gpu", "amd.com/gpu"].contains(&accelerator.resource_name.as_str()));
            assert!(accelerator.count <= 8, "{}", spec.size_name);
        }
    }
}

/// Most names of sizes have their number of vCPUs in them; the v2 sizes of D and ND40 have a running number.
#[test]
fn the_number_in_a_name_is_its_vcpus() {
    for VmSize { spec, .. } in SIZES.iter() {
        let name = spec.size_name.trim_start_matches("Standard_").trim_start_matches(char::is_alphabetic);
        let number: i32 = name.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
        let running_number =
            spec.family.starts_with("standardDv2") || spec.family.starts_with("standardDSv2");
        assert!(running_number || number == spec.vcpus, "{} has {} vCPUs", spec.size_name, spec.vcpus);
    }
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
    assert_eq!(retired, 22);
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
