# Puts the list of what is compiled into the library among the wheel's metadata (PEP 770), in the versions that this build
# has found. licenses/ has the licence of each.
set(growth_policy "${NB_DIR}/ext/robin_map/include/tsl/robin_growth_policy.h")
file(STRINGS "${growth_policy}" version_lines REGEX "TSL_RH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
string(REGEX MATCHALL "[0-9]+" robin_map_version "${version_lines}")
list(JOIN robin_map_version "." robin_map_version)
if(NOT robin_map_version)
  set(robin_map_version "unknown")  # before 1.3 its headers do not tell
endif()
set(robin_map_purl "pkg:github/Tessil/robin-map@v${robin_map_version}")

configure_file(native/sbom.cdx.json.in binxent.cdx.json @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/binxent.cdx.json" DESTINATION "${SKBUILD_METADATA_DIR}/sboms")
