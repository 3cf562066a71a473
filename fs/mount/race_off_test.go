//go:build !race

package mount_test

// raceDetector says that everything is several times slower than it is.
const raceDetector = false
