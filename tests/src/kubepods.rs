//! The cgroups of a node with pods, as the kubelet and a container runtime make them with either
//! driver: that of all pods, those of their classes, of each pod, of each container.
//!
//! They are threaded, so that single threads of a test can be in a container. Which Pods the API
//! knows is another matter: nothing here follows from objects.

use std::path::Path;

use anyhow::Result;

use crate::cgroup::Cgroup;

/// Who makes the cgroups, on which their names depend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// The kubelet itself.
    Cgroupfs,
    /// systemd, in whose names a dash means "below".
    Systemd,
}

/// The quality of service that a pod is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Right below the cgroup of all pods.
    Guaranteed,
    /// Below a cgroup of the class.
    Burstable,
    /// Below a cgroup of the class.
    BestEffort,
}

/// The cgroup of all pods.
#[derive(Debug)]
pub struct Kubepods {
    driver: Driver,
    // In this order: those below go before the one above.
    burstable: Cgroup,
    best_effort: Cgroup,
    all: Cgroup,
}

/// The cgroup of one pod.
#[derive(Debug)]
pub struct PodCgroup {
    driver: Driver,
    cgroup: Cgroup,
}

impl Kubepods {
    /// Makes it below a [`Cgroup::threaded`].
    pub fn make(above: &Cgroup, driver: Driver) -> Result<Self> {
        let all = above.below(&driver.slice("kubepods"))?;
        Ok(Self {
            burstable: all.below(&driver.class("burstable"))?,
            best_effort: all.below(&driver.class("besteffort"))?,
            driver,
            all,
        })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        self.all.path()
    }

    /// Makes the cgroup of the pod with this uid.
    pub fn pod(&self, uid: &str, class: Class) -> Result<PodCgroup> {
        let (above, stem) = match class {
            Class::Guaranteed => (&self.all, "kubepods"),
            Class::Burstable => (&self.burstable, "kubepods-burstable"),
            Class::BestEffort => (&self.best_effort, "kubepods-besteffort"),
        };
        let name = match self.driver {
            Driver::Cgroupfs => format!("pod{uid}"),
            Driver::Systemd => format!("{stem}-pod{}.slice", uid.replace('-', "_")),
        };
        Ok(PodCgroup {
            driver: self.driver,
            cgroup: above.below(&name)?,
        })
    }
}

impl PodCgroup {
    /// Makes the cgroup of a container; the number tells the pod's containers apart.
    pub fn container(&self, number: u32) -> Result<Cgroup> {
        let id = format!("{number:064x}");
        self.cgroup.below(&match self.driver {
            Driver::Cgroupfs => id,
            Driver::Systemd => format!("cri-containerd-{id}.scope"),
        })
    }
}

impl Driver {
    fn slice(self, name: &str) -> String {
        match self {
            Self::Cgroupfs => name.to_owned(),
            Self::Systemd => format!("{name}.slice"),
        }
    }

    fn class(self, name: &str) -> String {
        match self {
            Self::Cgroupfs => name.to_owned(),
            Self::Systemd => self.slice(&format!("kubepods-{name}")),
        }
    }
}
