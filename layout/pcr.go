package layout

// PCRs of a TPM, see UAPI.7.
const (
	// PCRBoot is the one that systemd's stub extends by the UKI, and /init by [PCRWord]: what a secret is sealed to.
	PCRBoot = 11
	// PCRSystem is the one that /init extends by [PCRReleaseWord] when it has unlocked what is encrypted.
	PCRSystem = 15
)

// PCRWord is the word that /init extends PCRBoot by when it has found what the machine was booted from, and before it
// reads what is there: a role, such as [RoleSystem]. The same UKI has another value in PCRBoot on a live medium than
// on a disk.
func PCRWord(role string) string { return "kairos-" + role }

// PCRLeave is the word that /init extends PCRBoot by when it is done, as systemd does in its initrds: nothing that
// runs afterwards unseals what /init does.
const PCRLeave = "leave-initrd"

// PCRReleaseWord is the word that /init extends PCRSystem by: the release, by the digest of its record, release.json.
func PCRReleaseWord(record Digest) string { return "kairos-release:" + string(record) }

// What systemd's stub gives the initrd of the UKI's sections .pcrsig and .pcrpkey, see systemd-stub(7). Paths are
// relative to the initrd's root.
const (
	InitrdPCRSignatures = ".extra/tpm2-pcr-signature.json"
	InitrdPCRKey        = ".extra/tpm2-pcr-public-key.pem"
)
