//! Which vector instructions the loops use, chosen when the program runs.

use pulp::{Arch, Simd, WithSimd};

/// An instruction set that this machine has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum InstructionSet {
    /// Sixteen numbers at a time.
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4),
    /// Eight numbers at a time.
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    /// What every machine of its kind has: NEON on ARM, one number at a time on an old x86.
    Baseline(Arch),
}

impl InstructionSet {
    /// All that this machine has, the widest first.
    pub(crate) fn all() -> Vec<InstructionSet> {
        #[cfg(target_arch = "x86_64")]
        let wide = {
            use pulp::x86::{V3, V4};
            [V4::try_new().map(InstructionSet::Avx512), V3::try_new().map(InstructionSet::Avx2)]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let wide = [None];
        #[cfg(target_arch = "x86_64")]
        let baseline = Arch::Scalar;
        #[cfg(not(target_arch = "x86_64"))]
        let baseline = Arch::new();
        wide.into_iter().flatten().chain([InstructionSet::Baseline(baseline)]).collect()
    }

    /// The widest that this machine has.
    pub(crate) fn widest() -> InstructionSet {
        InstructionSet::all()[0]
    }

    /// Runs a loop compiled for this instruction set.
    #[inline(always)]
    pub(super) fn run<Loop: WithSimd>(self, work: Loop) -> Loop::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512(simd) => Simd::vectorize(simd, work),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2(simd) => Simd::vectorize(simd, work),
            InstructionSet::Baseline(arch) => arch.dispatch(work),
        }
    }

    /// Numbers per vector.
    pub(super) fn lanes(self) -> usize {
        self.run(Lanes)
    }
}

struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}
