package mobile.s2p

import java.io.File
import java.net.URL
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.flowOn
import kotlinx.coroutines.withContext
import mobile.s2p.archive.BundleArchive
import mobile.s2p.archive.Download

/** What fetching a bundle tells. */
public sealed interface FetchStep {
    /**
     * @property bytes that are here, those of an earlier try included.
     * @property total of the archive; null when the server does not tell.
     */
    public class Downloading internal constructor(public val bytes: Long, public val total: Long?) : FetchStep

    /** The archive is here and right; it is being unpacked. */
    public object Unpacking : FetchStep

    /** @property folder of the bundle, for [Pipeline.open]. */
    public class Done internal constructor(public val folder: File) : FetchStep
}

/** Brings bundles onto the phone. */
public object Bundles {
    /**
     * Downloads an archive that `s2p-mobile convert --archive` made, compares it with its SHA-256 and unpacks it.
     *
     * What was downloaded before an interruption is kept in the folder and not downloaded again. A bundle that is there already is
     * [FetchStep.Done] at once. The bundle appears whole or not at all.
     *
     * @param url `https`, or any on this device.
     * @param sha256 of the archive, 64 hexadecimal digits.
     * @param into folder that holds bundles, for example `File(context.filesDir, "bundles")`; do not let the system back it up.
     * @param maximumBytes no larger archive is taken; null: any.
     * @throws S2PException no connection, a wrong answer, another or a larger file than asked for, no space, or an archive that is none.
     */
    public fun fetch(url: String, sha256: String, into: File, maximumBytes: Long? = null): Flow<FetchStep> = flow {
        val download = Download(URL(url), sha256, into, maximumBytes)
        val folder = File(into, "${download.name}.s2pmobile")
        if (!folder.isDirectory) {
            val context = currentCoroutineContext()
            download.run { bytes, total ->
                context.ensureActive()
                emit(FetchStep.Downloading(bytes, total))
            }
            emit(FetchStep.Unpacking)
            BundleArchive.unpack(download.file, folder) { context.ensureActive() }
            download.file.delete()
        }
        emit(FetchStep.Done(folder))
    }.flowOn(Dispatchers.IO)

    /**
     * Unpacks an archive that `s2p-mobile convert --archive` made, for example one that an app has among its assets.
     *
     * @param into folder of the bundle, which must not exist yet. It appears whole or not at all.
     * @throws S2PException no archive, one that is damaged or reaches out of its folder, or no space.
     */
    public suspend fun unpack(archive: File, into: File) {
        withContext(Dispatchers.IO) {
            val context = currentCoroutineContext()
            BundleArchive.unpack(archive, into) { context.ensureActive() }
        }
    }
}
