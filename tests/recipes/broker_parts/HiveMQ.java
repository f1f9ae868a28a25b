// HiveMQ CE in this process, on the port and with the folders that its configuration says, open to everybody.
// Arguments: the configuration, the folder of its data.
import com.hivemq.embedded.*;
import com.hivemq.extension.sdk.api.ExtensionMain;
import com.hivemq.extension.sdk.api.auth.SimpleAuthenticator;
import com.hivemq.extension.sdk.api.parameter.*;
import com.hivemq.extension.sdk.api.services.Services;
import java.nio.file.*;

public class HiveMQ {
    public static class LetIn implements ExtensionMain {
        public void extensionStart(ExtensionStartInput input, ExtensionStartOutput output) {
            SimpleAuthenticator open = (in, out) -> out.authenticateSuccessfully();
            Services.securityRegistry().setAuthenticatorProvider(in -> open);
        }

        public void extensionStop(ExtensionStopInput input, ExtensionStopOutput output) {}
    }

    public static void main(String[] arguments) throws Exception {
        Path config = Path.of(arguments[0]).toAbsolutePath(), data = Path.of(arguments[1]).toAbsolutePath();
        EmbeddedExtension letIn = EmbeddedExtension.builder().withId("let-in").withName("let in").withVersion("1")
                .withExtensionMain(new LetIn()).build();
        EmbeddedHiveMQ broker = EmbeddedHiveMQ.builder().withConfigurationFolder(config.getParent())
                .withDataFolder(data).withExtensionsFolder(Files.createDirectories(data.resolveSibling("extensions")))
                .withEmbeddedExtension(letIn).build();
        broker.start().join();
        Thread.currentThread().join();
    }
}
